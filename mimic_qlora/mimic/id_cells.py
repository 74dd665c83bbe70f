"""The cells of id columns: how an id is written, and what is wrong with a cell that is none."""

import re

# in all of these, blanks around an id are left out first: databases pad columns of fixed width
WHOLE = r"^(0|-?[1-9]\d{0,17})$"  # an id: an integer of the JSONL has no leading zero
ABOVE_ZERO = "[1-9][0-9]{0,17}"  # the id of a patient or a stay


def fault(cell: str | None) -> str:
    """Return why a cell is no id above 0, as the end of a sentence that its column begins."""
    if not cell:
        return "is empty"
    cell = cell.strip()
    for form, reason in _ID_FAULTS.items():
        if re.fullmatch(form, cell):
            return reason
    return "is not a whole number"


_ID_FAULTS = {
    "": "has blanks alone, which must be an empty cell",
    r"(?i:\.|nan|null|none|na|<na>|n/a|\\n)": "is a word for nothing, which must be an empty cell",
    r"[-+]?[0-9]*\.[0-9]*": "has a decimal point",
    r"[-+]?0[0-9]+": "begins with 0",
    r"[-+]?[0-9]{19,}": "has more than 18 digits",
    r"\+[0-9]+": "has a sign in front",
    r"-?[0-9]+": "is not above 0",
}
