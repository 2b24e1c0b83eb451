"""Ending early in good order: when a user, a cluster or a limit of time asks, what was done is saved."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .learn.run import Run


class Resumable(Exception):
    """The work was interrupted and what was done is saved; the same command goes on with it."""


def end_undisturbed() -> None:
    """Ignore what launchers and clusters send to the rest of a job once its first process has ended: the code stays."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


class Interruption:
    """Turns signals and a limit of time into an orderly end, for as long as its context lasts.

    While a run trains, Ctrl-C, SIGTERM, SIGUSR1 and the end of the time let the present step finish, then `last` is
    saved. At any other time nothing is lost by leaving at once. A second Ctrl-C leaves at once, always.

    Args:
        time_limit: seconds from now after which to end; None for no limit.

    Raises:
        Resumable: asked to end while no run trains.
    """

    def __init__(self, time_limit: float | None = None):
        self.limit, self.began = time_limit, time.monotonic()
        self.run: Run | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        handlers = {signal.SIGINT: self.on_ctrl_c, signal.SIGTERM: self.on_signal, signal.SIGUSR1: self.on_signal}
        if self.limit is not None:
            handlers[signal.SIGALRM] = self.on_signal
        self.previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        if self.limit is not None:
            signal.setitimer(signal.ITIMER_REAL, max(self.limit, 1e-3))
        return self

    def __exit__(self, *error: object) -> None:
        if self.limit is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    @contextmanager
    def training(self, run: Run) -> Iterator[None]:
        """While this context lasts, an interruption ends the run's training instead of the program."""
        self.run = run
        try:
            yield
        finally:
            self.run = None

    def on_ctrl_c(self, number: int, frame: FrameType | None) -> None:
        """Answer Ctrl-C."""
        if self.run is None or self.run.stop:
            raise KeyboardInterrupt
        self._ask(self.run, "Ctrl-C again: at once, without saving")

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Answer a cluster that wants its machine back, or the end of the time."""
        why = "the time is over" if number == signal.SIGALRM else f"{signal.Signals(number).name} came"
        if self.run is None:
            raise Resumable(f"{why}; no run was training")
        if not self.run.stop:  # launchers may send several
            self._ask(self.run, why)

    def _ask(self, run: Run, why: str) -> None:
        run.stop = True
        if run.processes.main:
            print(f"\nstopping after this step ({why})", file=sys.stderr)
