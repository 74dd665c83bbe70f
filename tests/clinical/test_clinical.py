"""The clinical content is complete, safe by its own rules, and its loader names each mistake."""

import copy
import json
import re
import shutil

import pytest

from helpers.charts import Chart
from helpers.paths import ROOT
from mimic_qlora.clinical import codes, conditions, conflicts, content, levels, phrases, schema
from mimic_qlora.step.errors import UserError
from mimic_qlora.tasks import guidance

RUN_FILES = ROOT / "run_files"
RAW = {name: schema.raw(content.DATA, name) for name in content.Content._fields}
CONTENT = content.load()
RULES = list(CONTENT.cautions.values())
SYMPTOMS = list(CONTENT.symptoms.values())
QUESTIONS = content.load_questions(RUN_FILES)
CURATED = [
    "cough",
    "heartburn",
    "leg_pain",
    "chest_discomfort",
    "burning_urination",
    "headache",
    "short_of_breath",
    "new_rash",
]


def matched(**found):
    return {rule.id for rule in RULES if rule.when.holds(Chart(**found))}


def general_advice(symptom):
    """Everything that the symptom says to anybody, whatever the chart."""
    return [line.say for line in symptom.self_care + symptom.urgent + symptom.track]


# ---- the loader ----


@pytest.mark.parametrize(
    "file, entry, change, words",
    [
        ("phenotypes", 0, lambda e: e.pop("icd10"), "field 'icd10' is missing"),
        (
            "phenotypes",
            0,
            lambda e: e.update(icd9=["40.1"]),
            "field 'icd9' item 1: must be an ICD code prefix",
        ),
        (
            "phenotypes",
            0,
            lambda e: e.update(icd9=[401]),
            "field 'icd9' item 1: must be an ICD code prefix",
        ),
        (
            "phenotypes",
            1,
            lambda e: e.update(id="hypertension"),
            "field 'id' is used by an earlier entry",
        ),
        (
            "phenotypes",
            0,
            lambda e: e.update(kind="chronic"),
            "field 'kind' must be 'condition', 'status' or 'acute'",
        ),
        ("drugs", 0, lambda e: e.update(route="PO"), "unknown field 'route'"),
        (
            "symptoms",
            0,
            lambda e: e.update(phrasings=["Help?"]),
            "field 'phrasings' must be a list of at least 5",
        ),
        (
            "symptoms",
            0,
            lambda e: e["urgent"][0].update(pattern="(blood"),
            "field 'pattern' is not a regular expression",
        ),
        (
            "symptoms",
            0,
            lambda e: e["try"].append({"say": "Rest.", "unless": ["nobody"]}),
            "field 'try' names an unknown caution 'nobody'",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(when={"phenotype": "nothing"}),
            "field 'when' names an unknown phenotype",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(when={"all": [{"drug_class": "nothing"}]}),
            "names an unknown drug_class",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(when={"lab": {"itemid": [1], "unit": "", "within_days": 3}}),
            "condition 'lab': needs either 'above' or 'below'",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(when={"weight": 3}),
            "field 'when' names an unknown condition 'weight'",
        ),
        ("cautions", 0, lambda e: e.update(symptoms=["sneeze"]), "unknown symptom or tag 'sneeze'"),
        ("cautions", 0, lambda e: e.update(pattern=["x*"]), "would match everything"),
        ("cautions", 0, lambda e: e.update(severity=4), "field 'severity' must be 1, 2 or 3"),
        (
            "cautions",
            0,
            lambda e: e.update(severity={"pain": 2}),
            "field 'severity' must be 1, 2 or 3, or a record with 'default'",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(severity={"default": 1, "teeth": 2}),
            "field 'severity' names an unknown symptom or tag 'teeth'",
        ),
        ("cautions", 0, lambda e: e.update(level=911), "field 'level' must be '911', 'emergency'"),
        (
            "cautions",
            0,
            lambda e: e.update(signs=["hiccups"]),
            "field 'signs' names an unknown sign 'hiccups'",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(tells=["stop_drug"]),
            "the tag 'stop_drug' needs a drug class after a colon",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(tells=["keep_drug:candy"]),
            "names an unknown drug_class 'candy'",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(tells=["heat:any"]),
            "the tag 'heat' has nothing after it",
        ),
        (
            "symptoms",
            0,
            lambda e: e["track"].append({"say": "Rest.", "when": {"phenotype": "nothing"}}),
            "field 'track' 'when' names an unknown phenotype 'nothing'",
        ),
        (
            "symptoms",
            0,
            lambda e: e["try"].append({"say": "Rest."}),
            "has 'say' alone: write it as a plain text",
        ),
        (
            "symptoms",
            0,
            lambda e: e["phrasings"].append({"text": "Help?", "signs": ["hiccups"]}),
            "field 'phrasings' names an unknown sign 'hiccups'",
        ),
        (
            "tells",
            0,
            lambda e: e.update(opposed=["heat"]),
            "field 'opposed' names 'heat', which does not name it in turn",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(sources=[]),
            "field 'sources' must be a list of at least 1",
        ),
    ],
)
def test_a_mistake_is_reported_with_file_entry_and_field(file, entry, change, words):
    entries = copy.deepcopy(RAW[file])
    change(entries[entry])
    with pytest.raises(UserError) as error:
        content.of_entries(RAW | {file: entries})
    assert f"{file}.yaml, entry" in str(error.value) and words in str(error.value)


@pytest.mark.parametrize(
    "text, words",
    [("- id: [", "not valid YAML"), ("id: x", "must hold a list"), (None, "cannot be read")],
)
def test_a_broken_file_is_reported_by_name(tmp_path, text, words):
    folder = shutil.copytree(content.DATA, tmp_path / "data")
    (folder / "drugs.yaml").unlink()
    if text:
        (folder / "drugs.yaml").write_text(text)
    with pytest.raises(UserError, match=f"drugs.yaml.*{words}"):
        content.load(folder)


@pytest.mark.parametrize(
    "now, words",
    [
        ("symptom: sneeze", "field 'symptom'.*'sneeze'"),
        ("symptom: cough\n  needs: {phenotype: x}", "field 'needs' names an unknown phenotype 'x'"),
        ("symptom: cough\n  signs: [hiccups]", "field 'signs' names an unknown sign 'hiccups'"),
    ],
)
def test_a_question_about_an_unknown_thing_is_reported(tmp_path, now, words):
    text = (RUN_FILES / "questions.yaml").read_text().replace("symptom: cough", now, 1)
    (tmp_path / "questions.yaml").write_text(text)
    with pytest.raises(UserError, match=f"questions.yaml, entry cough: {words}"):
        content.load_questions(tmp_path)


# ---- what the content holds ----


def test_the_content_is_large_enough_and_the_readme_says_whether_anybody_has_reviewed_it():
    assert len(SYMPTOMS) >= 44 and len(RULES) >= 50 and len(CONTENT.phenotypes) >= 70
    entries = (
        [entry for part in CONTENT for entry in part.values() if isinstance(entry, schema.Entry)]
        + QUESTIONS
        + content.load_knowledge(RUN_FILES)
    )
    reviewed = [entry.id for entry in entries if entry.reviewed_by is not None]
    assert [entry.id for entry in entries if entry.reviewed_on] == reviewed, (
        "a review has a name and a day"
    )
    readme = " ".join((RUN_FILES.parent / "README.md").read_text().split())
    says_nobody = "**No clinician has reviewed them yet**" in readme
    assert says_nobody == (not reviewed), (
        f"README.md is at odds with the files, which name reviewers of {reviewed}"
    )


def test_what_is_held_out_is_the_curated_symptoms_and_four_more_and_rules_of_all_sections():
    held_out = [symptom.id for symptom in SYMPTOMS if symptom.held_out]
    assert held_out[:8] == CURATED and len(held_out) == 12
    assert {rule.section for rule in RULES if rule.held_out} >= {"try", "urgent"}


def test_sentences_have_the_length_that_fits_an_answer():
    assert [
        item.say
        for symptom in SYMPTOMS
        for item in symptom.self_care
        if not 8 <= len(item.say.split()) <= 16
    ] == []
    assert [rule.id for rule in RULES if not 12 <= len(rule.say.split()) <= 34] == []


def test_every_caution_can_come_up_for_at_least_one_symptom():
    tags = {name for symptom in SYMPTOMS for name in ["any", symptom.id, *symptom.tags]}
    assert [rule.id for rule in RULES if not tags & set(rule.symptoms)] == []


def test_an_order_is_called_an_order_and_a_code_is_called_a_record():
    for rule in RULES:
        kinds = {leaf.kind for leaf in conditions.leaves(rule.when, negated=False)}
        if kinds == {"drug_class"}:
            assert "ordered during your last stay" in rule.say, rule.id
        elif "drug_class" not in kinds:
            assert re.search(
                r"your record (lists|shows)|your latest|you are \d+ or older", rule.say
            ), rule.id


def test_no_question_or_general_advice_names_a_cause():
    cause = re.compile(
        r"\b(?:this|it|that) (?:may|might|could) (?:be|mean)\b|sign of a|caused by|because of a|"
        r"\b(?:flu|angina|pneumonia|migraine|sciatica|gout|appendicitis|dehydration|anxiety attack|"
        r"panic attack|heart attack|stroke|infection)\b",
        re.I,
    )
    texts = [
        text
        for symptom in SYMPTOMS
        for text in [*general_advice(symptom), *(p.text for p in symptom.phrasings)]
    ]
    texts += [text for question in QUESTIONS for text in (question.question, question.ideal)]
    assert [text for text in texts if cause.search(text)] == []


def test_a_sign_of_an_emergency_is_called_one_wherever_it_stands():
    """Training never teaches that the same sign can wait in one answer and not in the next."""
    signs = re.compile(
        r"chest (?:pain|pressure)|vomit\w* blood|not fade|confus|stiff neck|droop|"
        r"seizure(?! medicine)|"
        r"hard to wake|lips .*blue|pink froth|(?:blow to|hit) (?:the|your) head|head injury|"
        r"control of your bladder|bowel control|shaking chills|lose sight|loss of sight|"
        r"(?:limb|leg|arm|foot|toe|hand).* (?:cold|pale|numb)|black stool|turns black|"
        r"severe belly|"
        r"swollen belly|belly pain is severe|bleed\w* (?:that )?does not stop|"
        r"heartbeat that does not settle|cannot pass (?:any )?urine",
        re.I,
    )
    texts = [flag.say for symptom in SYMPTOMS for flag in symptom.urgent]
    texts += [rule.say for rule in RULES if rule.section == "urgent"]
    texts += [
        line
        for question in QUESTIONS
        for line in question.ideal.split("urgent care\n")[1].split("\n\n")[0].splitlines()
    ]
    named = [text for text in texts if signs.search(text)]
    at_once = re.compile(r"call 911|emergency room", re.I)
    assert len(named) > 100 and [text for text in named if not at_once.search(text)] == []


# ---- patterns ----


def test_each_red_flag_pattern_finds_its_own_sentence():
    assert [
        flag.say
        for symptom in SYMPTOMS
        for flag in symptom.urgent
        if not re.search(flag.pattern, flag.say, re.I)
    ] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_caution_says_itself_and_nothing_that_a_caution_forbids(rule):
    assert phrases.said(rule, f"What you can try now\n- {rule.say}\n- Rest.")
    assert [other.id for other in RULES if phrases.forbidden(other, rule.say)] == []


def test_general_advice_says_no_caution_by_accident():
    assert [
        (symptom.id, rule.id)
        for symptom in SYMPTOMS
        for rule in RULES
        if phrases.said(rule, "\n".join(general_advice(symptom)))
    ] == []


def test_no_general_advice_is_forbidden_by_a_caution_that_it_does_not_give_way_to():
    """Answers leave out what gives way; they do not search sentences for what is forbidden."""
    for symptom in SYMPTOMS:
        for line in (*symptom.self_care, *symptom.urgent, *symptom.track):
            assert [
                rule.id
                for rule in RULES
                if rule.id not in line.unless
                and phrases.forbidden(rule, line.say)
                and not conflicts.opposes(line, rule)
            ] == [], line.say


def test_advice_to_cut_alcohol_gives_way_where_a_sudden_stop_is_dangerous():
    drinks = [
        item
        for symptom in SYMPTOMS
        for item in symptom.self_care
        if re.search("alcohol", item.say, re.I) and "powders" not in item.say
    ]
    assert drinks and all("alcohol_no_sudden_stop" in item.unless for item in drinks)


@pytest.mark.parametrize(
    "answer",
    [
        "You do not need to avoid ibuprofen, even with a blood thinner.",
        "There is no need to worry about ibuprofen with your blood thinner.",
        "Ibuprofen is fine with a blood thinner.",
        "Take ibuprofen with your blood thinner twice a day.",
        "You don't have to avoid naproxen because of your kidney disease.",
        "With a blood thinner, it is fine to ignore black stools and bleeding.",
        "No need to get care for a blow to the head while on a blood thinner.",
        "With heart failure, you do not need to weigh yourself each morning.",
        "Despite heart failure, there is no reason to limit salt or fluids.",
        "With heart failure, drink plenty of fluids.",
        "After a transplant, a fever can safely wait until your next visit.",
        "With low white cells, it's okay to stay home with a temperature of 102.",
        "Do not call emergency services for chest pressure, even with heart artery disease.",
        "With sleep apnea, you need not avoid sleeping pills.",
        "With an ACE inhibitor, swelling of the lips and tongue is not necessary to report.",
        "You do not need to check your blood sugar while you use insulin.",
        "Stop your steroid tablets today.",
        "With high blood pressure, take pseudoephedrine for your stuffy nose.",
        "If you have Parkinson's disease, take metoclopramide for nausea.",
        "With an opioid, slow breathing is harmless and it's fine to sleep it off.",
        "You never need to tell a clinician about your medicine allergy.",
    ],
)
def test_a_reversed_meaning_is_not_taken_for_the_caution(answer):
    assert [rule.id for rule in RULES if phrases.said(rule, answer)] == []


@pytest.mark.parametrize(
    "rule, answer",
    [
        (
            "anticoagulant_no_nsaid",
            "Because you are on a blood thinner, please stay away from NSAIDs such as Advil.",
        ),
        ("ckd_no_nsaid", "Never use ibuprofen; it can hurt your kidneys."),
        (
            "heart_failure_weight",
            "Your heart failure makes it important to record your weight daily.",
        ),
        (
            "heart_failure_fluid_limit",
            "With your heart failure, stick to the restricted salt and fluid plan.",
        ),
        ("transplant_fever", "A temperature over 38 C after a transplant needs a call today."),
        (
            "coronary_chest",
            "Given your coronary disease, chest tightness at rest means calling 911.",
        ),
        ("steroid_no_sudden_stop", "Since prednisone was ordered, never stop it abruptly."),
        ("antibiotic_diarrhea", "Don't use Imodium until a clinician agrees."),
        ("opioid_sleepy_breathing", "Oxycodone was ordered: shallow breaths are an emergency."),
    ],
)
def test_a_caution_is_found_in_other_words(rule, answer):
    assert phrases.said(CONTENT.cautions[rule], answer)


@pytest.mark.parametrize(
    "rule, answer, wrong",
    [
        ("ckd_no_nsaid", "Take ibuprofen with food.", True),
        ("ckd_no_nsaid", "If rest does not help, take ibuprofen.", True),
        ("ckd_no_nsaid", "You can use an over-the-counter NSAID, but not for long.", True),
        ("ckd_no_nsaid", "Avoid alcohol and screens, and then take naproxen.", True),
        ("ckd_no_nsaid", "Do not take aspirin or ibuprofen.", False),
        ("ckd_no_nsaid", "Don't try ibuprofen, naproxen or similar.", False),
        ("ckd_no_nsaid", "Ask your kidney team before you take ibuprofen.", False),
        ("heart_failure_fluid_limit", "Drink plenty of water.", True),
        ("heart_failure_fluid_limit", "Do not drink large amounts of water.", False),
        ("stent_keep_antiplatelet", "Stop taking aspirin until the bleeding ends.", True),
        ("stent_keep_antiplatelet", "Do not stop taking aspirin.", False),
        ("antibiotic_diarrhea", "You can take loperamide after each loose stool.", True),
        ("ckd_no_nsaid", "Take aspirin for the pain.", True),
        ("ckd_no_nsaid", "Keep your daily heart aspirin.", False),
        ("anticoagulant_no_nsaid", "Try Excedrin for your headache.", True),
        ("ckd_no_nsaid", "Diclofenac is a good choice.", True),
        ("ulcer_no_nsaid", "Take Pepto-Bismol.", True),
        ("ckd_no_nsaid", "Ibuprofen 400 mg is a good choice.", True),
        ("ckd_no_nsaid", "Consider ibuprofen.", True),
        ("ckd_no_nsaid", "Ibuprofen with food should be enough.", True),
        ("cirrhosis_acetaminophen", "Take acetaminophen every four hours.", True),
        ("cirrhosis_acetaminophen", "Take Tylenol up to four grams a day.", True),
        ("insulin_low_sugar", "Skip your insulin.", True),
        ("insulin_low_sugar", "Never skip your insulin.", False),
        ("anticoagulant_bleeding", "Hold your Eliquis.", True),
        ("anticoagulant_bleeding", "Do not stop warfarin.", False),
        ("heart_failure_fluid_limit", "Push fluids.", True),
        ("heart_failure_fluid_limit", "Have plenty of fluids.", True),
        ("poor_circulation_feet", "A warm pack on your feet helps.", True),
        ("poor_circulation_feet", "Soak your feet in warm water.", True),
        ("poor_circulation_feet", "Raise your legs on pillows.", True),
        ("steroid_no_sudden_stop", "Stop your prednisone.", True),
        ("inr_high", "Keep taking your warfarin as usual.", True),
        ("home_oxygen_flow", "Set the oxygen to what feels best.", True),
        ("stent_keep_antiplatelet", "Skip your Plavix until the rash is gone.", True),
    ],
)
def test_forbidden_advice_is_found_and_advice_against_it_is_not(rule, answer, wrong):
    assert phrases.forbidden(CONTENT.cautions[rule], answer) == wrong


# ---- the curated questions ----


# what is right for most, and wrong for charts with this rule, for which no ideal is written
HARMS_ONLY_WITH = {
    "too_hot": {"poor_circulation_feet"},
    "puffy_ankles": {"poor_circulation_feet"},
    "always_thirsty": {"swallowing_texture"},
}


def flags_of(question):
    """The warning signs of the question's symptom, where symptoms.yaml knows it."""
    symptom = CONTENT.symptoms.get(question.symptom)
    return symptom.urgent if symptom else ()


def test_the_curated_questions_come_first_and_their_ideals_are_whole():
    assert [question.symptom for question in QUESTIONS[:8]] == CURATED
    for question in QUESTIONS:
        ideal = question.ideal
        lines = [line for line in ideal.splitlines() if line]
        start = guidance.opening(question.signs, [*question.red_flags, *flags_of(question)], [])
        assert [line for line in lines if not line.startswith("- ")] == [
            *([levels.LEVELS[start].opening] if start else []),
            *content.SECTIONS.values(),
        ]
        assert 120 <= len(ideal.replace("- ", "").split()) <= 180
        urgent = ideal.split(content.SECTIONS["urgent"])[1].split(content.SECTIONS["track"])[0]
        assert [
            flag.name for flag in question.red_flags if not re.search(flag.pattern, urgent, re.I)
        ] == []
        assert [rule.id for rule in RULES if phrases.said(rule, ideal)] == []
        wrong = {rule.id for rule in RULES if phrases.forbidden(rule, ideal)}
        assert wrong <= HARMS_ONLY_WITH.get(question.id, set()), question.id


def test_the_curated_questions_are_worded_afresh():
    """No question shares more than 60% of its words, in order, with any that training asks."""
    from mimic_qlora.validation.scoring import likeness

    known = [
        phrasing.text
        for symptom in SYMPTOMS
        if not symptom.held_out
        for phrasing in symptom.phrasings
    ]
    near = [
        (q.id, max(likeness.rouge_l(phrasing, q.question) for phrasing in known)) for q in QUESTIONS
    ]
    assert [(name, like) for name, like in near if like > 0.6] == []


def test_most_questions_are_on_symptoms_never_trained_on_each_on_its_own():
    assert len(QUESTIONS) == 32 and len({q.symptom for q in QUESTIONS}) == 32
    assert sum(content.symptom_of(q).held_out for q in QUESTIONS) == 20
    for question in QUESTIONS:
        symptom = content.symptom_of(question)
        assert any(guidance.bearing(rule, symptom) > 1 and rule.held_out for rule in RULES), (
            question.id
        )


@pytest.mark.parametrize(
    ("line", "other", "wrong"),
    [
        (
            "tags: [pain]",
            "tags: [teeth]",
            "entry toothache: field 'tags' names an unknown tag 'teeth'",
        ),
        (
            "symptom: hip_pain",
            "symptom: back_pain",
            "entry sore_hip: .* 'back_pain', which has its tags in symptoms.yaml",
        ),
    ],
)
def test_a_symptom_has_its_tags_in_one_place_and_they_are_known(tmp_path, line, other, wrong):
    text = (RUN_FILES / "questions.yaml").read_text()
    assert line in text
    (tmp_path / "questions.yaml").write_text(text.replace(line, other, 1))
    with pytest.raises(UserError, match=wrong):
        content.load_questions(tmp_path)


def test_the_knowledge_ideals_hold_their_key_points():
    knowledge = content.load_knowledge(RUN_FILES)
    assert (
        len(knowledge) == 8
        and knowledge[0].question == "Summarize the key risk factors for sepsis."
    )
    assert knowledge[0].ideal.startswith("Key risk factors for sepsis include")
    for entry in knowledge:
        assert 60 <= len(entry.ideal.split()) <= 120 and len(entry.key_points) >= 6
        assert [
            p.point for p in entry.key_points if not re.search(p.pattern, entry.ideal, re.I)
        ] == []


def test_the_system_prompt_is_short_and_names_the_sections():
    prompt = (RUN_FILES / "system_prompt.txt").read_text()
    assert levels.OPENING in prompt
    assert len(prompt.split()) < 205 and all(
        f"\n{title}\n" in prompt for title in content.SECTIONS.values()
    )


# ---- matching charts ----


@pytest.mark.parametrize(
    "code, version, name",
    [
        ("4019", 9, "hypertension"),
        ("E785", 10, "hyperlipidemia"),
        ("I10", 10, "hypertension"),
        ("2724", 9, "hyperlipidemia"),
        ("Z87891", 10, "past_tobacco_use"),
        ("K219", 10, "reflux"),
        ("53081", 9, "reflux"),
        ("25000", 9, "diabetes"),
        ("F329", 10, "depression"),
        ("I2510", 10, "coronary_artery_disease"),
        ("F419", 10, "anxiety"),
        ("41401", 9, "coronary_artery_disease"),
        ("42731", 9, "atrial_fibrillation"),
        ("311", 9, "depression"),
        ("N179", 10, "acute_kidney_injury"),
        ("4280", 9, "heart_failure"),
        ("Z20822", 10, "covid_contact"),
        ("V1582", 9, "past_tobacco_use"),
        ("Z7901", 10, "long_term_anticoagulant"),
        ("2449", 9, "hypothyroidism"),
        ("4019  ", "9", "hypertension"),
        ("49320", 9, "copd"),
        ("4350", 9, "past_stroke_or_tia"),
        ("T86810", 10, "organ_or_stem_cell_transplant"),
    ],
)
def test_the_common_codes_have_their_phenotype(code, version, name):
    assert name in codes.phenotypes_of([(code, version)])


def test_a_code_means_nothing_in_the_other_version_and_exclusions_hold():
    assert codes.phenotypes_of([("4019", 10), ("I10", 9), ("ZZZ", 10)]) == []
    assert "chronic_kidney_disease" not in codes.phenotypes_of([("N186", 10)])
    assert codes.phenotypes_of([("F17211", 10)]) == ["past_tobacco_use"]
    assert codes.phenotypes_of([("I10", 10), ("4019", 9)]) == ["hypertension"]


@pytest.mark.parametrize(
    "code, version, name",
    [
        ("36501", 9, "glaucoma"),  # open angle with borderline findings: a suspicion
        ("H4001", 10, "glaucoma"),
        ("42611", 9, "heart_block"),  # first degree, which has no entry in ICD-10 either
        ("07982", 9, "covid_19"),  # SARS of 2003
        ("T86821", 10, "organ_or_stem_cell_transplant"),  # a skin graft
    ],
)
def test_a_code_is_not_taken_for_more_than_its_title_says(code, version, name):
    assert name not in codes.phenotypes_of([(code, version)])


@pytest.mark.parametrize(
    "drug, route, classes",
    [
        ("Warfarin", "PO/NG", {"oral_anticoagulant", "warfarin"}),
        ("Heparin Flush (10 units/ml)", "IV", set()),
        ("Heparin", "SC", set()),
        ("Heparin (Hemodialysis)", "IV", set()),
        ("Enoxaparin Sodium", "SC", set()),  # no dose is known
        ("Buprenorphine-Naloxone Film", "SL", {"opioid"}),
        ("Fentanyl Patch", "TP", {"opioid"}),
        ("Guaifenesin-CODEINE Phosphate", "PO/NG", {"opioid_cough_syrup"}),
        ("Linezolid", "IV", {"maoi", "linezolid", "antibiotic"}),
        ("Heparin Dwell (1000 Units/mL)", "DWELL", set()),
        ("Ciprofloxacin 0.3% Ophth Soln", "RIGHT EAR", set()),
        ("Ciprofloxacin HCl", "PO", {"antibiotic", "fluoroquinolone", "qt_prolonging"}),
        ("Morphine Sulfate", "IV", set()),
        ("Morphine SR (MS Contin)", "PO", {"opioid"}),
        ("Morphine Sulfate IR", None, set()),
        ("Insulin (Regular) for Hyperkalemia", "SC", set()),
        ("Insulin", "SC", {"insulin"}),
        ("Hydrocortisone Cream 2.5%", "TP", set()),
        ("PredniSONE", "PO", {"systemic_corticosteroid"}),
        ("Oxycodone-Acetaminophen (5mg-325mg)", "PO", {"opioid", "acetaminophen_combination"}),
        ("Butalbital-Aspirin-Caffeine", "PO", {"barbiturate"}),
    ],
)
def test_an_order_belongs_to_its_classes_by_word_and_route(drug, route, classes):
    assert codes.drug_classes_of(drug, route) == classes


def test_the_severity_for_a_symptom_is_its_own_then_that_of_its_tags():
    rule = RULES[0].model_copy(update={"severity": {"default": 1, "fall": 2, "pain": 3}})
    assert rule.severity_for("fall", ["pain"]) == 2 and rule.severity_for("x", ["pain"]) == 3
    assert rule.severity_for("x", []) == 1 and RULES[0].severity_for("x", []) == 3


def test_every_class_recognises_its_own_ingredients():
    for name, entry in CONTENT.drugs.items():
        route = (entry.routes or ["PO"])[0]
        for word in entry.ingredients:
            least = entry.least_dose.get(word)
            dose = (f"{least.dose:g}", least.unit) if least else (None, None)
            assert name in codes.drug_classes_of(word, route, *dose), (name, word)


@pytest.mark.parametrize(
    "dose, unit, counts",
    [
        ("40", "mg", False),
        ("50", "mg", True),
        ("30-80", "mg", True),
        ("80", "mL", False),
        (None, "mg", False),
    ],
)
def test_enoxaparin_counts_from_a_treatment_dose_on(dose, unit, counts):
    found = codes.drug_classes_of("Enoxaparin Sodium", "SC", dose, unit)
    assert found == ({"injected_anticoagulant"} if counts else set())
    assert codes.drug_classes_of("Enoxaparin (Prophylaxis)", "SC", "60", "mg") == set()


def test_a_chart_calls_for_the_cautions_of_its_findings():
    assert matched() == set()
    assert "heart_failure_weight" in matched(phenotypes={"heart_failure"})
    assert "opioid_benzodiazepine" not in matched(drug_classes={"opioid"})
    assert "opioid_benzodiazepine" in matched(drug_classes={"opioid", "sleep_medicine"})
    assert "anticoagulant_order_no_nsaid" in matched(drug_classes={"oral_anticoagulant"})
    assert "anticoagulant_order_no_nsaid" not in matched(
        drug_classes={"oral_anticoagulant"}, phenotypes={"long_term_anticoagulant"}
    )
    assert matched(age=64) == set() and matched(age=65) == {"older_no_sedating_antihistamine"}


@pytest.mark.parametrize(
    "latest, calls",
    [
        ((5.6, "mEq/L", 3), True),
        ((5.5, "mEq/L", 3), False),
        ((5.6, "mEq/L", 31), False),
        ((5.6, "mmol/L", 3), False),
        ((None, "mEq/L", 3), False),
        ((5.6, "mEq/L", -1), False),
    ],
)
def test_a_lab_counts_by_value_unit_and_age(latest, calls):
    assert ("high_potassium_lab" in matched(labs={50971: latest})) == calls


def test_the_newest_of_several_labs_counts_and_a_lab_without_unit_is_read():
    assert "high_potassium_lab" not in matched(
        labs={50971: (6.0, "mEq/L", 9), 50822: (4.0, "mEq/L", 1)}
    )
    assert "inr_high" in matched(labs={51237: (4.5, None, 1)})


@pytest.mark.parametrize(
    "code, version, days_ago, calls",
    [
        ("8154", 9, 20, True),
        ("8154", 9, 91, False),
        ("8154", 10, 20, False),
        ("0SRC0J9", 10, 0, True),
        ("0SRC0J9", 10, -2, False),
    ],
)
def test_a_procedure_counts_by_code_version_and_age(code, version, days_ago, calls):
    done = [(codes.procedures_of_code(code, version), days_ago)]
    assert ("recent_joint_replacement_leg" in matched(procedures=done)) == calls


def test_the_hash_of_the_content_is_stable():
    assert (
        content.content_sha256() == content.content_sha256() and len(content.content_sha256()) == 64
    )


@pytest.mark.parametrize("name", schema.MODELS)
def test_an_entry_is_dumped_as_its_file_has_it(name):
    """The hash of the content and the approvals of the review rest on these bytes."""
    folder = RUN_FILES if name in ("questions", "knowledge") else content.DATA
    raw = schema.raw(folder, name)
    read = [entry.as_in_file() for entry in schema.read(folder, name, schema.MODELS[name]).values()]
    assert json.dumps(read, sort_keys=True) == json.dumps(raw, sort_keys=True)
