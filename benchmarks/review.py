"""Claim: a page of the review takes less than 50 ms at 1,000 items, whichever answer is left.

    python benchmarks/review.py [--items 1000] [--requests 300]

Starts the real server on made-up results of 1,000 items, all of them marked by two raters, and
times its pages over HTTP from this machine, one after the other, the connection included. Beside
it: the same page for the two orders of an item, which come in a random order, with the difference
that labels drawn at random would show.
"""

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np  # noqa: E402
import psutil  # noqa: E402

from helpers.reviewing import Server, make_results, mark  # noqa: E402
from mimic_qlora.review import items as review_items
from mimic_qlora.review.marks import REQUIRED
from mimic_qlora.review.store import Store


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--items", type=int, default=1000, help="items to judge (default: %(default)s)"
    )
    parser.add_argument(
        "--requests", type=int, default=300, help="requests of each kind (default: %(default)s)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = make_results(Path(folder) / "results", questions=40, each=args.items // 40)
        store = marked(results, args.items)
        with Server(results, raters="anna,ben") as server:
            client = server.client("anna")
            positions = random.Random(0).choices(range(1, args.items), k=args.requests)
            pages(client, positions, psutil.Process(server.process.pid))
            orders(client, store, args.requests)


def marked(results: Path, n: int) -> Store:
    """A store in which two raters have marked everything."""
    items, sha256 = review_items.read(results)
    store = Store(results)
    store.tasks.prepare(["anna", "ben"], list(items), sha256)
    fields = {
        **dict.fromkeys(REQUIRED, "4"),
        "better": "a",
        "comment": "a comment",
        "a_harm": "1 2",
    }
    with store.database.open(write=True) as db:
        for rater in store.tasks.raters():
            rows = [
                (rater, t.position, field, v, 0)
                for t in store.tasks.of(rater)
                for field, v in fields.items()
            ]
            db.executemany("INSERT INTO mark VALUES (?, ?, ?, ?, ?)", rows)
    return store


def timed(call) -> float:
    """Milliseconds until the whole answer is read."""
    began = time.perf_counter()
    answer = call()
    assert answer.status < 400, answer.text
    return (time.perf_counter() - began) * 1000


def pages(client, positions: list, server: psutil.Process) -> None:
    """Wall time holds what else the machine is doing; the server's CPU time does not."""
    kinds = {
        "an item": lambda n: client.get(f"/items/{n}"),
        "a click saved": lambda n: client.post(f"/items/{n}", a_safety=str(n % 5 + 1), marking="1"),
        "a whole form saved": lambda n: client.post(
            f"/items/{n}", {**mark(str(n % 5 + 1)), "comment": str(n)}
        ),
        "which item is next": lambda n: client.get("/next"),
        "the list of all items": lambda n: client.get("/items"),
        "the list of ideals and rules": lambda n: client.get("/content"),
        "an ideal response": lambda n: client.get("/content/questions/cough"),
    }
    print(f"{'page':<30}{'median ms':>10}{'p95 ms':>10}{'CPU ms':>10}{'requests':>10}")
    for name, call in kinds.items():
        call(positions[0])
        before = sum(server.cpu_times()[:2])
        taken = sorted(timed(lambda n=n, call=call: call(n)) for n in positions)
        cpu = (sum(server.cpu_times()[:2]) - before) * 1000 / len(taken)
        p95 = taken[int(len(taken) * 0.95)]
        print(
            f"{name:<30}{statistics.median(taken):>10.1f}{p95:>10.1f}{cpu:>10.1f}{len(taken):>10}"
        )


def orders(client, store: Store, n: int) -> None:
    """Print the medians of the same item in its two orders.

    The orders come at random; taken in turn they could keep step with another program.
    """
    rng = np.random.default_rng(0)
    swapped, taken = rng.permutation(np.arange(2 * n) % 2), []
    for side in swapped.tolist():
        with store.database.open(write=True) as db:
            db.execute("UPDATE task SET swapped = ? WHERE rater = 'anna' AND position = 7", (side,))
        taken.append(timed(lambda: client.get("/items/7")))
    taken = np.array(taken)
    base, adapter = (np.median(taken[swapped == side]) for side in (0, 1))
    shuffles = [rng.permutation(swapped) for _ in range(2000)]
    chance = [abs(np.median(taken[s == 0]) - np.median(taken[s == 1])) for s in shuffles]
    print(
        f"\nThe base model's answer left: {base:.2f} ms, the adapter's left: {adapter:.2f} ms "
        f"(medians of {n} each),"
    )
    most = np.percentile(chance, 95)
    print(
        f"difference {abs(base - adapter):.2f} ms; labels drawn at random: up to {most:.2f} ms "
        "in 95% of 2,000 draws"
    )


if __name__ == "__main__":
    main()
