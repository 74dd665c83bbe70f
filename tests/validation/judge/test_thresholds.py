"""A judge's thresholds are fitted, frozen, and belong to that judge and to the criteria's words."""

import pytest

from mimic_qlora.step.errors import UserError
from mimic_qlora.validation.judge import criteria, thresholds


def fitted(kinds=criteria.KINDS, **changes):
    fit = thresholds.fit([0.1, 0.2, 0.6, 0.9], [False, False, True, True])
    about = {"judge": "a/judge", "fingerprint": "f1", "wording": criteria.WORDING}
    of = dict.fromkeys(kinds, fit)
    return thresholds.Fitted(**about | changes, answers_sha256="0" * 64, kinds=of)


def test_the_threshold_lies_between_what_holds_and_what_does_not():
    fit = thresholds.fit([0.1, 0.2, 0.6, 0.9], [False, False, True, True])
    assert fit.threshold == pytest.approx(0.4)
    assert (fit.found, fit.there, fit.false_alarms, fit.absent) == (2, 2, 0, 2)


def test_a_judge_that_errs_gets_the_highest_sensitivity_and_specificity():
    fit = thresholds.fit([0.1, 0.5, 0.4, 0.9], [False, False, True, True])
    assert (fit.found, fit.false_alarms) in {(2, 1), (1, 0)}
    assert fit.found / 2 - fit.false_alarms / 2 == 0.5


def test_one_kind_of_answers_alone_tells_no_threshold():
    assert thresholds.fit([0.1, 0.9], [True, True]) is None
    assert thresholds.fit([], []) is None


def test_without_a_file_all_thresholds_are_even_odds(tmp_path):
    found = thresholds.load(tmp_path, "f1")
    assert set(found.of_kind.values()) == {0.5} and found.sha256 is None
    assert tuple(found.unfitted) == criteria.KINDS


def test_frozen_thresholds_come_back_with_the_hash_of_their_file(tmp_path):
    path = thresholds.freeze(tmp_path, fitted())
    found = thresholds.load(tmp_path, "f1")
    assert list(found.of_kind.values()) == pytest.approx([0.4] * len(criteria.KINDS))
    assert len(found.sha256) == 64 and not found.unfitted
    assert path.stat().st_mode & 0o777 == 0o400
    assert thresholds.load(tmp_path, "another").sha256 is None


def test_a_kind_that_no_answer_tells_stays_unfitted(tmp_path):
    thresholds.freeze(tmp_path, fitted(kinds=["dose"]))
    found = thresholds.load(tmp_path, "f1")
    assert "dose" not in found.unfitted and "cause" in found.unfitted
    assert found.of_kind["cause"] == 0.5


def test_frozen_thresholds_are_fitted_again_only_if_asked(tmp_path):
    thresholds.freeze(tmp_path, fitted())
    with pytest.raises(UserError, match="--force fits anew"):
        thresholds.freeze(tmp_path, fitted())
    former = thresholds.path_of(tmp_path, fitted().fingerprint).read_bytes()
    place = thresholds.freeze(tmp_path, fitted(kinds=["dose"]), anew=True)
    (beside,) = (path for path in place.parent.iterdir() if path != place)
    assert beside.read_bytes() == former and place.read_bytes() != former
    assert "cause" in thresholds.load(tmp_path, "f1").unfitted


@pytest.mark.parametrize("text", ["", "{}", '{"judge": 1}', "[" * 5000])
def test_a_damaged_file_is_one_sentence(tmp_path, text):
    path = thresholds.freeze(tmp_path, fitted())
    path.chmod(0o600)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="holds no thresholds of this judge"):
        thresholds.load(tmp_path, "f1")


def test_thresholds_under_an_older_fingerprint_are_still_those_of_the_judge(tmp_path):
    """As files until 2026-11-30 have it: the first half of today's."""
    thresholds.freeze(tmp_path, fitted(fingerprint="0" * 16))
    assert not thresholds.load(tmp_path, "0" * 16 + "1" * 16).unfitted
    assert thresholds.load(tmp_path, "2" * 16 + "1" * 16).unfitted


def test_thresholds_of_other_words_or_of_another_judge_are_not_taken(tmp_path):
    for changes in ({"wording": "other"}, {"fingerprint": "f2"}):
        path = thresholds.path_of(tmp_path, "f1")
        written = thresholds.freeze(tmp_path, fitted(**{"fingerprint": "f1"}), anew=True)
        written.chmod(0o600)
        path.write_text(fitted(**changes).model_dump_json(), encoding="utf-8")
        with pytest.raises(UserError, match="no thresholds of this judge"):
            thresholds.load(tmp_path, "f1")
        path.unlink()
