"""Titles of ICD-10-PCS in plain words; those of ICD-9 as they are."""

import pytest

from mimic_qlora.chart.procedure_words import in_words


@pytest.mark.parametrize(
    ("title", "words"),
    [
        (
            "Restriction of Intracranial Artery with Intraluminal Device, Percutaneous Approach",
            "narrowing of brain artery with a stent or coil, through the skin",
        ),
        (
            "Extraction of Stomach, Via Natural or Artificial Opening Endoscopic, Diagnostic",
            "tissue sample of stomach, with a scope",
        ),
        (
            "Drainage of Left Pleural Cavity, Percutaneous Approach, Diagnostic",
            "sample of left space around the lung, through the skin",
        ),
        (
            "Resection of Gallbladder, Percutaneous Endoscopic Approach",
            "removal of gallbladder, keyhole operation",
        ),
        ("Respiratory Ventilation, Greater than 96 Consecutive Hours", "breathing machine"),
        ("Fluoroscopy of Right Heart using Other Contrast", "X-ray video of right heart"),
        (
            "Transfer of Left Hand Muscle, Open Approach",
            "transfer of left hand muscle, open operation",
        ),
    ],
)
def test_a_title_of_icd_10_is_told_in_plain_words(title, words):
    assert in_words(title, 10) == in_words(title, "10") == words
    assert in_words(title, 9) == title


def test_blanks_around_a_title_change_nothing():
    title = "Dilation of Coronary Artery, One Artery, Percutaneous Approach"
    assert in_words(f" {title} ", 10) == in_words(title, 10)
    assert in_words(" Closed biopsy of liver ", 9) == "Closed biopsy of liver"
