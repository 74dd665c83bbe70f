"""The clinical content as it stands, for tests that hold it to its own rules."""

from helpers.paths import ROOT
from mimic_qlora.clinical import content
from mimic_qlora.clinical.schema import Symptom

RUN_FILES = ROOT / "run_files"
CONTENT = content.load()
RULES = list(CONTENT.cautions.values())
SYMPTOMS = list(CONTENT.symptoms.values())
QUESTIONS = content.load_questions(RUN_FILES)
# the symptoms of the first questions
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


def general_advice(symptom: Symptom) -> list[str]:
    """Everything that the symptom says to anybody, whatever the chart."""
    return [line.say for line in symptom.self_care + symptom.urgent + symptom.track]
