"""Drug classes against all orders of the open demo, rules on labs against its dictionary."""

import csv
import gzip
import os
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml

from mimic_qlora.clinical import codes, conditions, content, derived

CONTENT = content.load()
EXPECTED = yaml.load(Path(__file__).with_name("drug_orders.yaml").read_text(), yaml.CSafeLoader)


def table(name):
    folder = os.environ.get("MIMIC_DEMO_DIR")
    path = Path(folder or ".") / "hosp" / f"{name}.csv.gz"
    if not folder or not path.is_file():
        pytest.skip(f"needs the open demo with {name}: set MIMIC_DEMO_DIR")
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


@pytest.fixture(scope="module")
def orders():
    """(drug, route, dose, unit) -> number of orders."""
    columns = ("drug", "route", "dose_val_rx", "dose_unit_rx")
    return Counter(tuple(row[c] or None for c in columns) for row in table("prescriptions"))


def test_each_class_has_the_orders_that_were_read_by_eye(orders):
    """`in`: number of its orders; `out`: drugs with an ingredient's name that do not count."""
    assert list(EXPECTED) == list(CONTENT.drugs)
    found, left_out = Counter(), defaultdict(set)
    for (drug, route, dose, unit), n in orders.items():
        classes = codes.drug_classes_of(drug, route, dose, unit)
        for name in classes:
            found[name] += n
        for name, entry in CONTENT.drugs.items():
            if name not in classes and codes.names_ingredient(entry, drug):
                left_out[name].add(f"{drug.strip()} {route}")
    for name, expected in EXPECTED.items():
        assert (found[name], sorted(left_out[name])) == (expected["in"], expected["out"]), name


LABS = {
    lab.itemid: lab
    for rule in CONTENT.cautions.values()
    for lab in [
        leaf.lab for leaf in conditions.leaves(rule.when) if isinstance(leaf, conditions.HasLab)
    ]
}


def test_a_rule_on_a_lab_reads_all_items_of_that_name_in_blood():
    labels = {
        int(row["itemid"]): row["label"].lower().replace(", whole blood", "")
        for row in table("d_labitems")
        if row["fluid"] == "Blood"
    }
    sets = [set(items) for items in LABS] + [derived.CREATININE, derived.WHITE_CELLS]
    for items in sets:
        names = {labels[item] for item in items}
        twins = {item for item, label in labels.items() if label in names}
        assert twins - set(items) <= {52024}, names  # creatinine of a bedside device
    assert {labels[item] for item in derived.COUNTED} == {
        "absolute neutrophil count",
        "absolute neutrophil",
    }
    assert labels[derived.NEUTROPHILS] == "neutrophils" and labels[derived.BANDS] == "bands"


def test_a_rule_on_a_lab_has_the_unit_of_its_results():
    units = defaultdict(set)
    for row in table("labevents"):
        if row["valuenum"]:
            units[int(row["itemid"])].add(row["valueuom"].strip())
    for items, lab in LABS.items():
        measured = set().union(*(units[item] for item in items))
        assert measured <= {lab.unit}, items
    assert units[derived.NEUTROPHILS] | units[derived.BANDS] == {"%"}
    for items, unit in ((derived.CREATININE, "mg/dL"), (derived.COUNTED, "K/uL")):
        assert set().union(*(units[item] for item in items)) == {unit}
