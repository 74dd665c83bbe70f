"""The page of step 3: one sentence first, names of labs and vitals, AUROCs that are carried."""

from mimic_qlora.features import files, page
from mimic_qlora.features.selection import ItemGain, Selection
from mimic_qlora.features.skill import TargetMetrics, WithoutLeast

ITEMS = [
    ItemGain("labevents.valuenum", "50912", 0.3),
    ItemGain("labevents.valuenum", "50931", 0.2),
    ItemGain("labevents.value", "51493: 0-2", 0.1),
    ItemGain("prescriptions.drug", "Apixaban", 0.1),
]
METRICS = [
    TargetMetrics("gout", "gout", 90, 0.2, 30, 6, auroc=0.9, auroc_low=0.8, auroc_high=1.0),
    TargetMetrics("asthma", "asthma", 90, 0.2, 30, 1, auroc=1.0, auroc_rows=0.5),
    TargetMetrics("anemia", "low red blood cells", 90, 0.2, 30, 0),
]
RESULT = Selection([], [], METRICS, [], WithoutLeast(0, 0, 30, 0), None, [], [], ITEMS)
NAMES = {"50912": "Creatinine", "50931": "Glucose", "51493": "RBC"}


def test_a_column_is_told_by_the_labs_and_drugs_that_the_models_used_most():
    named = page.Named(RESULT, NAMES)
    assert named.of_column("labevents.valuenum") == "Creatinine, Glucose"
    assert named.of_column("labevents.value") == "RBC: 0-2"
    assert named.of_column("prescriptions.drug") == "Apixaban"
    assert named.of_column("patients.anchor_age") == ""
    assert (RESULT.label("anemia"), RESULT.label(None)) == ("low red blood cells", "")


def test_an_auroc_that_too_few_test_patients_carry_is_not_shown():
    shown = [(row["auroc"], row["auroc_rows"]) for row in files.targets_table(METRICS)]
    assert shown == [(0.9, None), ("too few", None), ("too few", None)]


def test_the_page_opens_with_one_sentence(tmp_path):
    source = {"kind": "synthetic", "version": "", "folder": "", "patients": 90, "unexpected": []}
    page.write(tmp_path / "features.html", page.Named(RESULT, NAMES), [], ["Said"], source)
    text = (tmp_path / "features.html").read_text(encoding="utf-8")
    told = "No diagnosis is predicted well enough to say which columns matter."
    assert text.index(told) < text.index("Data: ") < text.index("Said.")
    assert page.headline(RESULT) == told and "permutation_drop" not in text
