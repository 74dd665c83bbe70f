"""Step 2: dataset statistics: patient counts, diagnosis distributions, demographics.

    python summarize_jsonl.py

Leaves `summary/` in the storage folder: every table as CSV, all of them in summary.json, and one
page with plots, summary.html, that needs no network. Counts of fewer patients than --min-cell are
not shown. With --model, how long the records are in that model's tokens.
"""

import argparse

from mimic_qlora.step import command_line, ending, storage


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(__doc__)
    parser.add_argument(
        "--min-cell",
        type=command_line.whole_number(0),
        default=10,
        help="hide counts of fewer patients than this; 0 or 1 hides none (default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        help="count the tokens of a sample of records with this model's tokenizer: "
        "a folder or a cached hub name (default: not counted)",
    )
    everything = "print all tables, not the size and Table 1 alone"
    parser.add_argument("--all", action="store_true", help=everything)
    command_line.add_arguments(parser)
    args = parser.parse_args()
    args.min_cell = 0 if args.min_cell == 1 else args.min_cell  # of which both hide none
    return args


def main() -> None:
    """Summarize the patients: count, hide small counts, print, and write the folder."""
    args = arguments()
    store = storage.open_storage(args.storage)

    from mimic_qlora.subjects.manifest import FLAGS, data_line, flags_sha256, subjects_manifest

    manifest = subjects_manifest(store)
    print(data_line(manifest["source"]))

    from mimic_qlora.clinical import content
    from mimic_qlora.llm import chat, finding
    from mimic_qlora.summary import page, record_lengths, tables

    path = finding.model_path(args.model, store) if args.model is not None else None
    model = finding.model_name(path) if path else None
    settings = {"min_cell": args.min_cell, "model": model}
    inputs = {
        "subjects": manifest["id"],
        "clinical content": content.content_sha256(),
        FLAGS: flags_sha256(manifest),
    }
    if path:
        inputs["tokenizer"] = finding.tokenizer_sha256(path)
    options = ending.Options(args.storage, args.model)
    with (
        ending.told("summary", store, options, "summary.html"),
        storage.step_output(store, "summary", settings, inputs, args.force) as out,
    ):
        summary = tables.summarize(store, out.path, manifest, args.min_cell)
        if path:
            count = chat.token_counter(chat.load_tokenizer(path))
            rows = record_lengths.per_record(store, count, args.min_cell)
            heading = f"Tokens per record for {model}"
            summary.tables.append(tables.Table("tokens_per_record", heading, rows))
        else:
            summary.skipped.append("Tokens per record: left out, no --model was given")
        page.print_tables(summary, args.min_cell, args.all)
        data = data_line(manifest["source"], with_folder=False)
        page.write_files(out.path, summary, data, args.min_cell)
        out.facts["tables"] = {table.name: len(table.rows) for table in summary.tables}
        out.facts["skipped"] = summary.skipped


if __name__ == "__main__":
    command_line.run(main)
