"""The races that MIMIC-IV records of a stay, in the groups that tables are made of."""

NOT_RECORDED = "not recorded"
# how its names begin, and their group
_GROUPS = {
    "WHITE": "White",
    "PORTUGUESE": "White",
    "BLACK": "Black",
    "ASIAN": "Asian",
    "HISPANIC": "Hispanic",
    "SOUTH AMERICAN": "Hispanic",
    **dict.fromkeys(("UNKNOWN", "UNABLE", "PATIENT DECLINED"), NOT_RECORDED),
}


def group(name: str | None) -> str:
    """Return the group of a race as MIMIC-IV names it: White, Black, ..., or NOT_RECORDED."""
    text = " ".join((name or "").upper().split())
    if not text:
        return NOT_RECORDED
    return next((found for start, found in _GROUPS.items() if text.startswith(start)), "Other")
