"""The data that a summary is made of, with the counts that several of its tables rest on."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from duckdb import DuckDBPyConnection

from mimic_qlora.display.cells import Cell
from mimic_qlora.mimic import tables
from mimic_qlora.subjects import database
from mimic_qlora.subjects.manifest import SubjectsManifest
from mimic_qlora.summary.disclosure import (
    HIDDEN,
    Rows,
    hidden_cells,
    hide_repeats,
    hide_small,
    is_small,
    spread_of_counts,
)

Patients = npt.NDArray[np.int64]  # their numbers


@dataclass(frozen=True)
class Data:
    """The patients in a storage folder; counts of fewer than `min_cell` of them are hidden."""

    con: DuckDBPyConnection
    manifest: SubjectsManifest
    min_cell: int

    def count(self, sql: str, *values: str) -> int:
        """Return the number that a query gives."""
        return self.con.execute(sql, values).fetchall()[0][0]

    @property
    def patients(self) -> int:
        """The number of patients."""
        return self.manifest["source"]["patients"]

    @cached_property
    def coded(self) -> int:
        """The number of patients with a coded stay."""
        if "diagnoses_icd" not in database.names(self.con):
            return 0
        return self.count(f"SELECT count(*) FROM {database.CODED_PATIENTS}")

    @cached_property
    def _with_stay(self) -> int:
        return self.count(f"SELECT count(DISTINCT subject_id) FROM {database.STAYS}")

    @cached_property
    def stages(self) -> dict[str, Cell]:
        """The patients without a stay ("none"), with one ("stay"), and of these without a code
        ("uncoded") and with one ("coded"); what would tell of few is hidden."""
        n, stay, coded = self.patients, self._with_stay, self.coded
        counts = {"none": n - stay, "uncoded": stay - coded, "coded": coded, "without": n - coded}
        sums = [["none", "uncoded", "coded"], ["none", "uncoded"], ["without", "coded"]]
        cells: dict[str, Cell] = {**counts, **hidden_cells(counts, sums, self.min_cell)}
        cells["stay"] = stay if cells["none"] == counts["none"] else HIDDEN
        return cells

    def hide_stays(self, rows: Rows, columns: Sequence[str]) -> None:
        """Hide columns of rows that count the patients with a stay, where the flow must not.

        All rows of admissions do, and tables that have a row of every stay, such as services.
        """
        if self.stages["stay"] != HIDDEN:
            return
        for row in rows:
            whole = row["table"] == "admissions" and row.get("share", 1) == 1
            if whole or row["patients"] == self._with_stay:
                row.update(dict.fromkeys(columns, HIDDEN))

    @cached_property
    def _rows_of_patients(self) -> str:
        """The name of a table of the rows of each patient in each table: name, subject_id, n."""
        made, columns = "rows_of_patients", "name TEXT, subject_id BIGINT, n BIGINT"
        self.con.execute(f"CREATE OR REPLACE TEMP TABLE {made} ({columns})")
        for name, counts in self.manifest["rows"].items():
            if counts["columnar"]:
                of_table = f"FROM {database.table(name)} GROUP BY ALL"
                self.con.execute(
                    f"INSERT INTO {made} SELECT ?, subject_id, count(*) {of_table}", [name]
                )
        return made

    def patients_in(self, name: str) -> int:
        """Count the patients of a table."""
        return self.count(f"SELECT count(*) FROM {self._rows_of_patients} WHERE name = ?", name)

    @cached_property
    def rows_per_table(self) -> Rows:
        """The rows and patients of every table, in the order of the schema."""
        order = list(tables.schema())
        patients_of: dict[str, Patients] = {}
        names = sorted(
            self.manifest["rows"],
            key=lambda name: (order.index(name) if name in order else len(order), name),
        )
        result: Rows = []
        for name in names:
            n, rows = 0, 0
            median: Cell = None
            most: Cell = None
            if self.manifest["rows"][name]["columnar"]:
                per_patient = f"SELECT subject_id, n FROM {self._rows_of_patients} WHERE name = ?"
                found = self.con.execute(per_patient, [name]).df()
                patients_of[name] = found.subject_id.to_numpy()
                n, rows = len(found), int(found.n.sum())
                _, median, _, most = spread_of_counts(found.n, self.min_cell)
            result.append(
                {
                    "table": name,
                    "rows": rows,
                    "patients": n,
                    "patients_share": n / self.patients,
                    "median_rows": median,
                    "most_rows": most,
                }
            )
        also = ("rows", "patients_share", "median_rows", "most_rows")
        # less those with a coded stay, the table's patients would tell of those with none of a code
        told = is_small(self.patients_in("diagnoses_icd") - self.coded, self.min_cell)
        for row in result:
            name = str(row["table"])
            leaves_few = _leave_few(patients_of.get(name), patients_of.values(), self.min_cell)
            if leaves_few or (told and name == "diagnoses_icd"):
                row.update(dict.fromkeys(("patients", *also), HIDDEN))
        self.hide_stays(result, ("patients", *also))
        result = hide_small(result, ("patients",), self.min_cell, also, [self.patients])
        return hide_repeats(result, self.min_cell)

    @cached_property
    def hidden_tables(self) -> Collection[str]:
        """The tables whose rows are hidden: no other table may tell them."""
        return {str(row["table"]) for row in self.rows_per_table if row["rows"] == HIDDEN}


def _leave_few(some: Patients | None, others: Iterable[Patients], min_cell: int) -> bool:
    """Tell whether a table has the patients of another one but for few, whom two counts would tell.

    So may a table be that details another, as emar_detail does emar.
    """
    if some is None or is_small(len(some), min_cell):  # a small one is hidden as that
        return False
    return any(
        is_small(len(more) - len(some), min_cell) and np.isin(some, more).all() for more in others
    )
