"""What an answer tells of its patient, where the chart has another name of the same medicine."""

import pytest

from mimic_qlora.clinical import content
from mimic_qlora.validation.scoring import known, statements

PAIRS = sorted(
    {
        (brand, ingredient)
        for drug in content.load().drugs.values()
        for brand, ingredient in drug.brands.items()
    }
)


def untrue(medicine, ordered):
    """What is false in an answer that tells of a medicine, where the chart orders another."""
    shown = known.of_text(f"- Medicines ordered during the last stay: {ordered} (by mouth)")
    answer = f"- Because you take {medicine}, call your clinic today."
    return statements.false(answer, "What should I do?", shown)


def test_a_brand_is_borne_out_by_its_ingredient_and_the_ingredient_by_its_brand():
    assert len(PAIRS) > 200
    found = {pair: untrue(*pair) + untrue(*reversed(pair)) for pair in PAIRS}
    assert {pair: said for pair, said in found.items() if said} == {}


@pytest.mark.parametrize(
    ("medicine", "ordered"),
    [("Lipitor", "Simvastatin"), ("Zoloft", "Citalopram"), ("Keflex", "Vancomycin")],
)
def test_a_brand_of_another_medicine_of_the_class_is_still_untrue(medicine, ordered):
    assert untrue(medicine, ordered) == [medicine.lower()]
