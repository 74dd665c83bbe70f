"""What an answer must not make up: a cause for the symptom, and a dose that the chart does not hold."""

import re

# Diseases by name, and by the endings that doctors' words have. Words for symptoms ("fever", "swelling") are not here.
_DISEASE = (
    r"(?:[a-z-]*(?:itis|osis|pneumonia|anemia|anaemia|carcinoma|neuropathy|embolism|aneurysm|glycemia|glycaemia"
    r"|hidrosis|[aeiou]gioma)"
    r"|infection|infected \w+|(?:heart|panic|asthma) attack|stroke|(?:blood )?clots?|cancer|tumou?r|influenza"
    r"|(?:the )?flu"
    r"|covid(?:-19)?|asthma|copd|emphysema|dehydration|diabetes|ulcers?|fracture|broken \w+|(?:\w+ )?strain"
    r"|sprain|hernia"
    r"|allerg(?:y|ic reaction)|migraine|dvt|(?:heart|kidney|liver|renal) failure|(?:acid )?reflux|gerd|angina"
    r"|gout|shingles"
    r"|(?:kidney|gall|bladder) ?stones?|(?:slipped|herniated) disc|pulled muscle|pinched nerve|cataract|sepsis"
    r"|anxiety|depression|eczema|psoriasis|uti|dry eyes|cataracts?|glaucoma"
    r"|high blood pressure|hypertension|hypotension|arrhythmia|(?:atrial )?fibrillation|rash caused by \w+"
    r"|(?:\w+ ){0,2}(?:disease|disorder|syndrome|deficiency|tension|spasm)|common cold|a cold|virus)"
)
_FEW = r"(?:[\w'’\"“-]+[ ,]+){0,8}?[\"“]?"
_CAUSE = re.compile(
    r"(?:\b(?:caused|triggered|brought on|explained) by|\bdue to|\bbecause of|\b(?:result|consequence) of"
    r"|(?<!for )(?<!any )(?<!no )\b(?:sign|symptom|indication)s? of|\bone of the most common \w+ is|\breferred to as"
    r"|\b(?:reason|cause)s? (?:for|of|behind) (?:this|it|that|your|the)\b[^.]{0,40}? (?:is|may be|might be|could be)"
    r"|\b(?:sounds?|looks?|seems?) (?:very much )?(?:like|to be)"
    r"|\b(?:this|it|that)(?:['’]s| is| may be| might be| could be| must be| can be)(?: \w+ly)?"
    r"|\b(?:likely|probably) (?:an?|due|to be)|\bpoints? to|\bsuggests?|\bdiagnosis(?: here)?(?: is| of|:)"
    r"|\blooking at|\bconsistent with|\btypical (?:of|for)"
    r"|\b(?:struggling|trying) to cope with)"
    rf"\s*{_FEW}(?P<name>\b{_DISEASE})\b",
    re.IGNORECASE,
)
# What the chart lists, the person has: "you have diabetes" makes nothing up, "it is caused by your diabetes" does.
_HAS = re.compile(
    r"(?:\byou(?: (?:probably|likely|most likely|may|might|could|must|clearly|certainly))?"
    r" (?:have|are (?:having|suffering from))|\b(?:they|the patient) (?:\w+ ){0,2}(?:experiencing"
    r"|suffering from|has)|\bdealing with)"
    rf"\s*{_FEW}(?P<name>\b{_DISEASE})\b",
    re.IGNORECASE,
)
_EXPLAINS = re.compile(
    rf"\b(?P<name>{_DISEASE})\b (?:\w+ ){{0,2}}(?:explains?|is behind|is to blame|is the cause)\b", re.IGNORECASE
)
_NAMED_CONDITION = re.compile(
    r"\b(?:condition|disease|disorder) (?:called|known as) [\"“]?(?P<name>[\w -]{3,40})", re.I
)
_CAUSES = re.compile(
    rf"\b(?P<name>{_DISEASE})\b (?:can |may |could |might )?causes? "
    r"(?:this|it|(?:your |the |such )?(?:swelling|pain|headaches?|fever|rash|dizziness|bleeding|cough\w*"
    r"|cramps?|thirst|nausea))\b",
    re.IGNORECASE,
)
# "if you have diabetes", "unless it is broken", "no sign of infection": nothing is claimed
_NOT_CLAIMED = re.compile(
    r"\b(?:if|when|whether|unless|because|should) (?:you|your record|it|this)\b[^,.]*|\bno (?:sign"
    r"|evidence)s? of\b[^,.]*"
    r"|\b(?:is|are|does|do|need)(?: not|n['’]t)\b[^,.]*|\b(?:test|checked|check|look|watch) for\b[^,.]*",
    re.IGNORECASE,
)

_UNIT = (
    r"(?:mg|mcg|µg|micrograms?|milligrams?|grams?|g|ml|millilit(?:er|re)s?|units?|iu|drops?|puffs?|tablets?|pills?"
    r"|capsules?|caplets?|lozenges?|water pills?|tablespoons?|teaspoons?|spoonfuls?|doses?)"
)
_DOSE = re.compile(
    r"\b(?:double|triple) (?:your|the) (?:\w+ ){0,3}?(?:dose|pills?|tablets?|medicines?|insulin)\b"
    rf"|(?<![\w.,/])(?:\d[\d.,]*(?:\s*(?:-|to|or)\s*\d[\d.,]*)?|one|two|three|four|half a"
    rf"|an extra)[ -]?(?P<unit>{_UNIT})\b"
    r"(?!\s*/|\s+per\s+d|\s+of (?:salt|sugar|carb|fib|protein|fluid|water|sodium))",
    re.IGNORECASE,
)


def causes(answer: str, chart: str = "") -> list:
    """What the answer names as the cause of the symptom, or as what the person has and `chart` does not list."""
    found, listed = [], chart.casefold()
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", answer):
        claimed = _NOT_CLAIMED.sub(" ", sentence)
        for pattern in (_CAUSE, _NAMED_CONDITION, _CAUSES, _EXPLAINS, _HAS):
            names = [match["name"].strip() for match in pattern.finditer(claimed)]
            found += [name for name in names if pattern is not _HAS or name.casefold() not in listed]
    return list(dict.fromkeys(found))


def doses(answer: str, chart: str = "") -> list:
    """Amounts of medicine in the answer that `chart` does not hold, as they stand there."""
    listed = re.sub(r"\s+", "", chart.casefold())
    found = [match[0] for match in _DOSE.finditer(answer)]
    return list(dict.fromkeys(amount for amount in found if re.sub(r"\s+", "", amount.casefold()) not in listed))
