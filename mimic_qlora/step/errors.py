"""Errors that a user can fix, and the signal that nothing is to be done."""


class UserError(Exception):
    """An error that the user can fix: one sentence on what is wrong, where, and what to do."""


class GoesOn(UserError):
    """A UserError after which the same command goes on: what it has done so far is kept."""


class UpToDate(Exception):
    """Raised by `step_output` when the folder already holds what this run would write."""
