"""Step 2: dataset statistics: patient counts, diagnosis distributions, demographics.

    python summarize_jsonl.py

Leaves `summary/` in the storage folder: every table as CSV, all of them in summary.json, and one
page with plots, summary.html, that needs no network. Counts of fewer patients than --min-cell are
not shown. With --model, how long the records are in that model's tokens.
"""

import argparse
import textwrap
from pathlib import Path

from mimic_qlora import command_line, storage


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    less = "hide counts of fewer patients than this; 0 hides none (default: %(default)s)"
    parser.add_argument("--min-cell", type=int, default=10, help=less)
    model = "count the tokens of a sample of records with this model's tokenizer: a folder or a cached hub name"
    parser.add_argument("--model", help=f"{model} (default: not counted)")
    command_line.add_arguments(parser)
    args = parser.parse_args()
    command_line.check_range(args, "min_cell", 0, 1_000_000)
    return args


def main():
    args = arguments()
    store = storage.open_storage(args.storage)
    manifest = storage.read_manifest(store, "subjects")
    print(storage.data_line(manifest))

    from mimic_qlora import clinical

    count, model = token_counter(args.model, store)
    settings = {"min_cell": args.min_cell, "model": model}
    inputs = {"subjects": manifest["id"], "clinical content": clinical.content_sha256()}
    with storage.step_output(store, "summary", settings, inputs, args.force) as out:
        tables, skipped = summarize(store, out.path, manifest, args.min_cell)
        if count:
            from mimic_qlora import tokens

            tables["tokens_per_record"] = (
                f"Tokens per record for {model}",
                tokens.per_record(store, count, args.min_cell),
            )
        else:
            skipped.append("Tokens per record: left out, no --model was given")
        print_tables(tables, skipped, args.min_cell)
        write_tables(out.path, tables, manifest, args.min_cell)
        write_page(out.path / "summary.html", tables, skipped, manifest, args.min_cell)
        out.manifest["tables"] = {name: len(rows) for name, (_, rows) in tables.items()}
        out.manifest["skipped"] = skipped
    print(f"\nWrote {store / 'summary'}: open summary.html in a browser, or copy the folder")


def token_counter(name: str | None, store: Path) -> tuple:
    """A function that counts a text's tokens, and the model's name; (None, None) where no model was asked for."""
    if name is None:
        return None, None
    from functools import partial

    from mimic_qlora import chat, models

    path = models.model_path(name, store)
    return partial(chat.count_tokens, chat.load_tokenizer(path)), models.model_name(path)


def summarize(store: Path, temp: Path, manifest: dict, min_cell: int):
    """Every table of the summary, {name: (heading, rows)}, and a sentence for each that the data has nothing for."""
    from tqdm import tqdm

    from mimic_qlora import database, summaries

    con = database.connect(store, temp)
    there = database.names(con)
    tables, skipped = {}, []
    bar = tqdm(summaries.SUMMARIES.items(), desc="summarizing", unit="table", disable=None)
    for name, (heading, needs, make) in bar:
        if needs in there:
            tables[name] = heading, make(con, manifest, min_cell)
        else:
            skipped.append(f"{heading}: left out, the data has no {needs}")
    con.close()
    return tables, skipped


def print_tables(tables: dict, skipped: list, min_cell: int) -> None:
    """Everything but the long list of columns and the histogram, as text of 100 columns."""
    from mimic_qlora import page, summaries

    for name, (heading, rows) in tables.items():
        if name == "missing":
            print(f"\n{empty_columns(rows)} (missing.csv has them all)")
        elif name != "diagnoses_histogram":
            print(page.terminal(rows, heading))
            if name in summaries.NOTES:
                print(textwrap.fill(summaries.NOTES[name], page.WIDTH))
    print("\n" + "\n".join(textwrap.fill(line, page.WIDTH) for line in [*skipped, privacy(min_cell)]))


def empty_columns(rows: list) -> str:
    empty = sum(row["filled"] == 0 for row in rows)
    mostly = sum(isinstance(row["empty_share"], float) and 0.5 < row["empty_share"] < 1 for row in rows)
    return f"Of {len(rows)} columns, {empty} hold nothing and {mostly} more are more than half empty"


def privacy(min_cell: int) -> str:
    if min_cell:
        return (
            f"Counts of 1 to {min_cell - 1} patients are written as <{min_cell}, and what gives them away as hidden "
            f"(--min-cell 0 shows all: keep that on this machine)"
        )
    return "Small counts are shown (--min-cell 0): keep the summary on this machine"


def write_tables(folder: Path, tables: dict, manifest: dict, min_cell: int) -> None:
    from mimic_qlora import page, spreadsheet

    for name, (_, rows) in tables.items():
        spreadsheet.write(folder / f"{name}.csv", rows)
    content = {name: {"title": heading, "rows": rows} for name, (heading, rows) in tables.items()}
    summary = {"data": page.data_line(manifest), "min_cell": min_cell, "tables": content}
    storage.write_json(folder / "summary.json", summary)


def write_page(path: Path, tables: dict, skipped: list, manifest: dict, min_cell: int) -> None:
    """All tables and their plots as one page."""
    from mimic_qlora import page, summaries

    def plot(name: str, value: str, label, xlabel: str, log: bool = False) -> str:
        heading, rows = tables[name]
        small = [not isinstance(row[value], int) for row in rows]  # drawn as hatched bars up to the limit
        values = [min_cell if s else row[value] for row, s in zip(rows, small, strict=True)]
        texts = [page.shown(row[value]) for row in rows]
        alt = f"{heading}, as bars; the table below has the numbers"
        return page.bars([label(row) for row in rows], values, xlabel, alt, log, texts, small)

    def diagnosis(row: dict) -> str:
        return f"ICD-{row['icd_version']} {row['icd_code']} {row['title']}"

    plots = {
        "rows_per_table": ("rows", lambda row: row["table"], "rows, logarithmic", True),
        "diagnoses_histogram": ("patients", lambda row: f"{row['coded_diagnoses']} codes", "patients"),
        "top_diagnoses_by_patients": ("patients", diagnosis, "patients"),
        "top_phenotypes": ("patients", lambda row: row["name"], "patients"),
        "top_drugs": ("patients", lambda row: row["drug"], "patients"),
        "top_labs": ("patients", lambda row: f"{row['lab']}, {row['fluid']}", "patients"),
    }
    sections = []
    for name, (heading, rows) in tables.items():
        parts = [plot(name, *plots[name])] if name in plots and rows else []
        if name == "missing":
            parts += [page.paragraph(empty_columns(rows) + "."), page.table(rows, folded=f"All {len(rows)} columns")]
        else:
            parts.append(page.table(rows))
        parts += [page.paragraph(summaries.NOTES[name])] if name in summaries.NOTES else []
        sections.append((heading, parts))
    lead = [page.data_line(manifest), *skipped, privacy(min_cell) + "."]
    page.write(path, "Summary of the patients", lead, sections)


if __name__ == "__main__":
    command_line.run(main)
