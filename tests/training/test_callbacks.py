"""Runs that stop by themselves."""

import signal
import time

import pytest

from mimic_qlora.step.errors import UserError
from mimic_qlora.training import callbacks, recipes, settings


def test_a_loss_that_is_no_number_ends_the_run(train, monkeypatch):
    for module in (settings, recipes):  # beyond what the command line takes
        monkeypatch.setattr(module, "LEARNING_RATES", (0, 1e31))
    with pytest.raises(UserError, match="no longer a number at step .*lower --lr"):
        train("--lr", 1e30, "--epochs", 20)


def test_training_ends_after_as_many_validations_without_a_gain_as_it_has_patience():
    def state(*losses):
        return [{"loss": 1.0}, *({"eval_loss": loss} for loss in losses)]

    assert not callbacks.stopped_early(state(), 2)
    assert not callbacks.stopped_early(state(3, 2, 2.5), 2)
    assert callbacks.stopped_early(state(3, 2, 2.5, 2.1), 2)
    assert not callbacks.stopped_early(state(3, 2, 2.5, 1.9), 2)
    assert not callbacks.stopped_early(state(3, 4, 5, 6, 7), 0)


def test_a_second_signal_stops_at_once_unless_it_came_with_the_first(monkeypatch):
    """A lost terminal is told to all processes, and by one of them to the others again."""
    pace = callbacks.Pace(set(), 1, 0)
    pace._handle(signal.SIGTERM, None)
    pace._handle(signal.SIGTERM, None)
    later = time.monotonic() + callbacks.TOGETHER + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    with pytest.raises(KeyboardInterrupt):
        pace._handle(signal.SIGINT, None)
