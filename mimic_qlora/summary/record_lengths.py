"""How long the patients' records are in a model's tokens, estimated on a sample of them."""

from collections.abc import Callable
from pathlib import Path

from mimic_qlora.step import seeded
from mimic_qlora.subjects import reader

SAMPLE = 200  # records
PIECE = 20_000  # bytes tokenized at each of PIECES places of a record; a record may have hundreds of megabytes
PIECES = 5


def per_record(storage: Path, count: Callable[[str], int], min_cell: int) -> list:
    """Bytes and tokens of a record of the JSONL: quartiles and mean over a sample drawn by hash, one row for each.

    `count` gives the tokens of a text. A long record's tokens are those of its pieces, in proportion to its bytes.
    Empty where the sample has fewer than `min_cell` records.
    """
    import numpy as np

    ids = seeded.order(reader.split_of(storage), "tokens", 0)[:SAMPLE]
    if len(ids) < min_cell:
        return []
    lengths = []
    for subject_id in ids:
        line = reader.raw_line(storage, subject_id)
        pieces = [line]
        if len(line) > PIECE * PIECES:
            pieces = [
                line[at : at + PIECE]
                for at in np.linspace(0, len(line) - PIECE, PIECES).astype(int)
            ]
        tokens = sum(count(piece.decode("utf-8", errors="ignore")) for piece in pieces)
        lengths.append((len(line), tokens * len(line) / sum(map(len, pieces))))
    rows = []
    for what, values in zip(("bytes", "tokens"), np.array(lengths).T, strict=True):
        low, middle, high = (round(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
        row = {"of_each_record": what, "records": len(ids), "mean": round(values.mean())}
        rows.append({**row, "lower_quartile": low, "median": middle, "upper_quartile": high})
    return rows
