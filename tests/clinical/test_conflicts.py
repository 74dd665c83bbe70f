"""Contradictions between sentences: opposed tags, two levels for one sign, what covers what."""

import pytest
from pydantic import TypeAdapter

from helpers.charts import Chart, charts_that_fulfil
from mimic_qlora.clinical import conflicts, content, levels
from mimic_qlora.clinical.conditions import Condition
from mimic_qlora.clinical.schema import Asks, Line

RULE = next(iter(content.load().cautions.values()))


def line(say="x", **fields):
    return Line.model_validate({"say": say, **fields})


def rule(**fields):
    return RULE.model_copy(update=fields)


@pytest.mark.parametrize(
    ("one", "other", "against"),
    [
        (["raise_legs"], ["do_not_raise_legs"], True),
        (["raise_legs"], ["limit_fluids"], False),
        (["keep_drug:antiplatelet"], ["stop_drug:antiplatelet"], True),
        (["keep_drug:antiplatelet"], ["stop_drug:insulin"], False),
        (["keep_drug:any"], ["stop_drug:insulin"], True),
        (["heat", "keep_drug:insulin"], ["stop_drug:any"], True),
        ([], ["stop_drug:any"], False),
    ],
)
def test_tags_are_opposed_in_both_directions_and_drugs_by_their_class(one, other, against):
    assert conflicts.opposes(line(tells=one), line(tells=other)) == against
    assert conflicts.opposes(line(tells=other), line(tells=one)) == against
    assert bool(list(conflicts.of([line(tells=one), line(tells=other)]))) == against


def test_two_levels_for_one_sign_are_found_and_the_higher_one_outranks():
    low, high = line(level="today", signs=["fever"]), line(level="911", signs=["chills", "fever"])
    (found,) = conflicts.of([low, high, line(level="days", signs=["calf_swollen"])])
    assert found.what == "fever: today and 911"
    assert conflicts.outranked(low, [high]) and not conflicts.outranked(high, [low])
    assert conflicts.level_of("fever", [low, high]) == "911"
    assert conflicts.level_of("seizure", [low, high]) is None


def test_levels_are_ordered_and_all_but_the_last_open_an_answer():
    assert [*levels.LEVELS] == ["911", "emergency", "today", "days"]
    assert levels.highest(["days", None, "emergency"]) == "emergency"
    assert levels.is_above("today", "days") and levels.is_above("days", None)
    openings = [level.opening for level in levels.LEVELS.values()]
    assert all(start.startswith(levels.OPENING) for start in openings[:3]) and openings[3] == ""


@pytest.mark.parametrize(
    ("more", "covered"),
    [
        ({}, True),
        ({"tells": ("no_nsaid", "no_sedative")}, False),
        ({"signs": ("fever", "chills")}, False),
        ({"level": "911"}, False),
        ({"level": "days"}, True),
        ({"drugs": ["ibuprofen", "aspirin"]}, False),
        ({"drugs": ["IBUPROFEN"]}, True),
        ({"say": "No ibuprofen."}, True),
        ({"say": "No ibuprofen, no Motrin."}, False),
    ],
)
def test_a_caution_covers_another_only_if_it_warns_of_all_that_the_other_warns_of(more, covered):
    def made(drugs=("ibuprofen", "Motrin"), **fields):
        forbidden = [{"act": "take it", "drugs": list(drugs)}]
        asks = Asks.model_validate({"action": "a", "reason": "r", "forbidden": forbidden})
        as_is = {"tells": ("no_nsaid",), "signs": ("fever",), "level": "today"}
        return rule(**as_is | {"asks": asks, "say": "No ibuprofen here."} | fields)

    assert conflicts.covers(made(), made(**more)) == covered


def test_a_chart_that_fulfils_a_condition_is_found_and_none_for_one_that_cannot_be_fulfilled():
    read = TypeAdapter(Condition).validate_python
    stroke, clot = {"phenotype": "stroke"}, {"phenotype": "venous_clot"}
    either = read({"all": [{"any": [stroke, clot]}, {"age": {"at_least": 65}}]})
    charts = list(charts_that_fulfil(either))
    assert [set(chart.phenotypes) for chart in charts] == [{"stroke"}, {"venous_clot"}]
    assert all(chart.age >= 65 for chart in charts)
    never = read({"none": [stroke]})
    assert [set(c.phenotypes) for c in charts_that_fulfil(either, never)] == [{"venous_clot"}]
    assert list(charts_that_fulfil(read(stroke), never)) == []
    lab = {"itemid": [50971], "unit": "mEq/L", "within_days": 30}
    high, low = read({"lab": lab | {"above": 5.5}}), read({"none": [{"lab": lab | {"above": 6}}]})
    (chart,) = charts_that_fulfil(high, low)
    assert 5.5 < chart.labs[50971][0] <= 6 and not Chart().labs
