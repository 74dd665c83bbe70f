"""The files that the documents name are there, and fit what the commands beside them read."""

import json
import re
from random import Random

import yaml

from helpers.paths import ROOT
from mimic_qlora.mimic.synthetic.hospital import STRIDE

PATIENTS, UNCODED = 400, 0.39  # of step 1's built-in data


def test_the_questions_of_the_example_are_about_patients_of_the_demo():
    lines = (ROOT / "examples" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    study = yaml.safe_load((ROOT / "run_files" / "studies" / "demo.yaml").read_text("utf-8"))
    seed = study["data"]["seed"]
    coded = {
        10_000_000 + ((number + 1) * STRIDE + seed * 104_729) % 10_000_000
        for number in range(PATIENTS)
        if Random(f"{seed}:{number}").random() >= UNCODED
    }
    for asked in map(json.loads, lines):
        assert asked["subject_id"] in coded and asked["question"].endswith("?")


def test_links_of_the_documents_lead_to_files_that_are_there():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!http|#)([^)#]+)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_readme_fits_into_200_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200
