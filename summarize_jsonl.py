"""Step 2: dataset statistics: patient counts, diagnosis distributions, demographics.

    python summarize_jsonl.py

Leaves `summary/` in the storage folder: every table as CSV, all of them in summary.json, and one
page with plots, summary.html, that needs no network. Counts of fewer patients than --min-cell are
not shown. With --model, how long the records are in that model's tokens.
"""

import argparse
from pathlib import Path

from mimic_qlora.step import command_line, storage
from mimic_qlora.summary.page import print_tables, write_page, write_tables


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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

    from mimic_qlora.clinical import content as clinical

    count, model = token_counter(args.model, store)
    settings = {"min_cell": args.min_cell, "model": model}
    inputs = {"subjects": manifest["id"], "clinical content": clinical.content_sha256()}
    with storage.step_output(store, "summary", settings, inputs, args.force) as out:
        tables, skipped = summarize(store, out.path, manifest, args.min_cell)
        if count:
            from mimic_qlora.summary import record_lengths

            tables["tokens_per_record"] = (
                f"Tokens per record for {model}",
                record_lengths.per_record(store, count, args.min_cell),
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

    from mimic_qlora.llm import chat, finding

    path = finding.model_path(name, store)
    return partial(chat.count_tokens, chat.load_tokenizer(path)), finding.model_name(path)


def summarize(store: Path, temp: Path, manifest: dict, min_cell: int):
    """Every table of the summary, {name: (heading, rows)}, and a sentence for each that the data has nothing for."""
    from tqdm import tqdm

    from mimic_qlora.subjects import database
    from mimic_qlora.summary import tables as summaries

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


if __name__ == "__main__":
    command_line.run(main)
