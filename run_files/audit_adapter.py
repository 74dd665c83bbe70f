"""Audit an adapter of step 5: what does it give away about the patients it was trained on?

    python run_files/audit_adapter.py --run default --model meta-llama/Meta-Llama-3-8B-Instruct

Compares patients that it was trained on with validation patients that chose nothing: six attacks,
on answers and on charts, and what it tells of charts that are given in part or not at all. Leaves
`privacy/<run>/` in the storage folder: a page and a CSV. The verdict is held, exceeded, or cannot
tell, by limits frozen before (run_files/audit.yaml); it goes into the adapter's card and the
ledger. It permits nothing: PhysioNet asks that models made from its data are shared there alone
(docs/memorisation.md). A run that was stopped goes on with the same command.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the library of this checkout

from mimic_qlora.step import command_line, ending, errors, manifests, storage, terminal


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(__doc__)
    add = parser.add_argument
    command_line.add_adapter(parser)
    whole = command_line.whole_number
    add(
        "--patients",
        type=whole(10),
        default=2000,
        help="patients of each side at most (default: %(default)s)",
    )
    add(
        "--texts",
        type=whole(10),
        default=300,
        help="patients of each side whose charts are continued or asked about, and samples that "
        "begin without one, at most (default: %(default)s)",
    )
    add("--seed", type=command_line.seed, default=0, help="draws them (default: %(default)s)")
    add(
        "--min-cell",
        type=whole(1, 1000),
        default=10,
        help="groups of fewer patients are hidden (default: %(default)s)",
    )
    add(
        "--controls",
        action="store_true",
        help="also train an adapter that must be found, 20 epochs on 50 patients, and shuffle "
        "membership",
    )
    add("--freeze", metavar="FILE", help="freeze other limits than audit.yaml's, and end")
    command_line.add_device(parser)
    command_line.add_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Read, attack, decide, write."""
    args = arguments()
    store = storage.open_storage(args.storage, checkout=Path(__file__).resolve().parents[1])
    if args.freeze:
        from mimic_qlora.privacy import limits

        print(f"Frozen: {limits.freeze(store, Path(args.freeze))}")
        return
    storage.check_adapters(store, [args.run])  # before torch loads
    adapter = storage.verified_manifest(store, f"adapters/{args.run}")

    from mimic_qlora.privacy import audit, cohort, controls, limits, page
    from mimic_qlora.qa import session
    from mimic_qlora.training.memorisation import audited, canaries
    from mimic_qlora.validation import ledger

    frozen = limits.frozen(store)
    settings = audit.Settings(args.patients, args.texts, args.seed, args.min_cell, frozen.sha256)
    opened = session.load(store, args.model)
    print(session.first_lines(opened), flush=True)
    compared = cohort.find(opened, adapter, settings.most, settings.seed)
    limits.keep(store)  # once the patients suffice
    step, control = f"privacy/{args.run}", None
    place = store / "adapters" / args.run
    weights = session.weights_sha256(store, args.run)
    planted = canaries.read(store) if adapter["settings"].get("canaries") else []
    inputs = {f"adapters/{args.run}": adapter["id"]}
    asked = {**vars(settings), "controls": args.controls}
    audit.say_replaced(store, manifests.new_manifest(step, asked, inputs))
    try:
        with storage.step_output(store, step, asked, inputs, args.force) as out:
            how = audit.How(settings, frozen, weights, args.force, planted)
            found = audit.of_adapter(opened, place, args.run, compared, how)
            if args.controls:
                control = controls.run(opened, found, adapter, settings, frozen)
            told = page.write(out.path, found, settings, weights, control)
            ledger.enter(
                store,
                "audited",
                plan_sha256="",
                limits_sha256=frozen.sha256,
                adapters={args.run: weights},
                verdict=told.verdict,
            )
            if session.replaced(store, {args.run: weights}):
                print(
                    f"note: the adapter {args.run} was trained again meanwhile: this is the audit "
                    "of the one before, and the card of the new one does not tell of it"
                )
            else:
                audited.tell_card(place / "README.md", told.lines)
        said = [page.QUOTE, *page.lines(found, settings), *(control.lines() if control else [])]
        print("\n".join(["", *(terminal.fitted(line, terminal.width()) for line in said)]))
    except errors.UpToDate as message:
        print(message)
    print(f"\n{ending.seen(store / step / audited.PAGE)}")


if __name__ == "__main__":
    command_line.run(main)
