"""What does the tasks of a step: this process, or a pool of processes on this machine.

A task is a plain function of picklable arguments that may be given twice: it leaves the same files,
and its result tells counts. The step does not know where it runs.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
TICK_SECONDS = 1.0


class Again(Exception):
    """Raised for a task that must be given again, as its worker or its result is lost."""


class Given(NamedTuple):
    """A task that was given: its number, and when."""

    number: int
    since: float  # seconds, of the monotonic clock
    size: float  # of its work, beside others


class Inline(Executor):
    """An executor that does each task at once, in this process; an error ends the caller."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Do a task."""
        future = Future[T]()
        future.set_result(fn(*args, **kwargs))
        return future


class Engine:
    """A pool of processes on this machine, or none: then each task is done in this process."""

    def __init__(self, workers: int, prepare: Callable[[], None]) -> None:
        """Start nothing yet. `prepare` is called in each process before its first task."""
        self.is_inline = workers <= 1
        self._workers, self._prepare = workers, prepare
        self._executor: Executor = Inline()

    def __enter__(self) -> "Engine":
        if not self.is_inline:
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(
                self._workers, context, initializer=_start, initargs=(self._prepare,)
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and not self.is_inline:
            # a task may take an hour, and what it leaves is whole or nothing
            for child in multiprocessing.active_children():
                child.terminate()
        self._executor.shutdown(cancel_futures=True)

    def completed(
        self,
        task: Callable[..., T],
        arguments: Sequence[tuple[Any, ...]],
        tick: Callable[[], None] = lambda: None,
        sizes: Sequence[float] = (),
    ) -> Iterator[tuple[int, T]]:
        """Yield the number and the result of each task as it ends; `tick` is called meanwhile.

        Tasks begin in the order of their arguments. An error of a task ends all. `sizes` tells how
        much work each is, where they differ, so that a large one is not taken to be late.
        """
        waiting = iter(range(len(arguments)))
        running: dict[Future[Any], Given] = {}
        seconds = done = 0.0  # what tasks took that have ended, and their sizes

        def give(number: int) -> None:
            given = Given(number, time.monotonic(), sizes[number] if sizes else 1)
            running[self._submit(task, *arguments[number])] = given

        while True:
            while len(running) < self._in_flight():
                number = next(waiting, None)
                if number is None:
                    break
                give(number)
            if not running:
                return
            ended, _ = wait(running, TICK_SECONDS, FIRST_COMPLETED)
            for future in ended:
                given = running.pop(future, None)
                if given is None:  # its twin has just ended
                    continue
                try:
                    result = self._result(future, given)
                except Again:
                    give(given.number)
                    continue
                for twin in [one for one, other in running.items() if other.number == given.number]:
                    running.pop(twin)
                    twin.cancel()
                seconds, done = seconds + time.monotonic() - given.since, done + given.size
                yield given.number, result
            for number in self._late(list(running.values()), seconds / done if done else None):
                give(number)
            tick()

    def _in_flight(self) -> int:
        """Return how many tasks may be given before one has ended."""
        return 1 if self.is_inline else 2 * self._workers

    def _submit(self, task: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return self._executor.submit(task, *arguments)

    def _result(self, future: Future[Any], given: Given) -> Any:
        """Return the result of a task that has ended. Raises Again when it must be given again."""
        return future.result()

    def _late(self, running: Sequence[Given], pace: float | None) -> Sequence[int]:
        """Return the tasks to give a second time, as they take too long; the first to end counts.

        `pace` is the seconds that others took by their size, None before one has ended. Raises
        GoesOn when nobody is there to do them.
        """
        return ()


def _start(prepare: Callable[[], None]) -> None:
    """Prepare a process of the pool: it leaves Ctrl-C to its parent, and ends with it.

    A process that outlived its parent would go on for nobody.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
