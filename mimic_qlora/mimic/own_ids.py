"""Names of tables and columns that hold an id of the patients who are read, or of their stays."""

from collections.abc import Mapping

import pyarrow.compute as pc

from mimic_qlora.mimic import names, reading
from mimic_qlora.mimic.tables import Source
from mimic_qlora.step.errors import UserError

_IDS = {
    "patients": "subject_id",
    "admissions": "hadm_id",
    "icustays": "stay_id",
    "edstays": "stay_id",
}


def check(sources: Mapping[str, Source]) -> None:
    """Raise UserError where the name of a table or a column holds an id of a patient or a stay.

    Nothing is read where no name has a number that may be one.
    """
    held = {
        number: source.path.parent
        for source in sources.values()
        for name in (source.folder or source.path.name, *source.columns)
        for number in names.numbers(name)
    }
    theirs = set[str]()
    for name, column in _IDS.items() if held else ():
        if name in sources and column in sources[name].columns:
            for batch in reading.read(sources[name], lambda *_: None):  # step 1 rejects them later
                theirs |= held.keys() & {*pc.utf8_trim_whitespace(batch[column]).to_pylist()}
    if theirs:
        raise UserError(
            f"{held[min(theirs)]} has a table with the id of a patient or a stay in its name or in "
            f"those of its columns ({len(theirs):,} in all), which step 2's tables would tell: "
            "rename it or them, or turn these columns into rows"
        )
