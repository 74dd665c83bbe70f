"""Errors that a user can fix, and the signal that nothing is to be done."""


class UserError(Exception):
    """Something that the user can put right: one sentence that says what is wrong, where, and what to do."""


class UpToDate(Exception):
    """Raised by `step_output` when the folder already holds what this run would write."""
