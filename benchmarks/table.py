"""What the benchmarks share: a line of the table, the table, and timings of several functions in turns.

A module of this package with a function `lines(options: Options) -> list[Line]` is part of `python -m benchmarks`.
"""

import importlib
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

HEAD = ("what", "measured", "floor", "ratio", "target", "met")


class Options(NamedTuple):
    """What the command line says to every benchmark.

    Attributes:
        rounds: repetitions of each timing; those of what is compared take turns.
        device: where models and metrics run; data are always prepared on the CPU.
    """

    rounds: int = 5
    device: str = "cpu"


class Line(NamedTuple):
    """One measurement, and what it is compared with.

    Attributes:
        what: was measured, in a few words.
        measured: the number, in `unit`.
        unit: such as ms, s, MiB, GFLOP/s.
        floor: what it is compared with, same unit: the least possible, a limit, or a plain way to do the same.
        floor_name: what that is.
        target: the least ratio wanted; None where nothing was promised.
        more_is_better: rates such as GFLOP/s; False: times and sizes.
    """

    what: str
    measured: float
    unit: str
    floor: float | None = None
    floor_name: str = ""
    target: float | None = None
    more_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        """How good the measurement is relative to the floor, more being better: 0.65 reaches 65 % of its speed."""
        if self.floor is None:
            return None
        return self.measured / self.floor if self.more_is_better else self.floor / self.measured

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        return None if self.target is None or self.ratio is None else self.ratio >= self.target


def run(name: str, options: Options) -> list[Line]:
    """Return the lines of a module of this package."""
    return importlib.import_module(f"benchmarks.{name}").lines(options)


def markdown(lines: Iterable[Line]) -> str:
    """Return lines as a Markdown table."""
    return "\n".join([row(HEAD), row("---" for _ in HEAD), *(row(cells(line)) for line in lines)])


def row(texts: Iterable[str]) -> str:
    """Return one row of a Markdown table."""
    return f"| {' | '.join(text.replace('|', '/') for text in texts)} |"


def cells(line: Line) -> tuple[str, ...]:
    """Return the texts of a line."""
    floor = "" if line.floor is None else f"{line.floor:.3g} {line.unit}"
    return (
        line.what,
        f"{line.measured:.3g} {line.unit}",
        f"{floor} ({line.floor_name})" if floor and line.floor_name else floor,
        "" if line.ratio is None else f"{line.ratio:.2f}",
        "" if line.target is None else f">= {line.target:g}",
        {True: "yes", False: "no", None: ""}[line.met],
    )


def seconds(
    functions: list[Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return how long each function takes, the least of some rounds in which they take turns.

    The least, because other work on the machine only slows down; in turns, so that it slows all of them. The first
    round only warms up.

    Args:
        functions: called without arguments.
        rounds: that count.
        clock: gives seconds; `time.process_time` leaves out what other programs take.
    """
    taken: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds + 1):
        for times, function in zip(taken, functions, strict=True):
            start = clock()
            function()
            times.append(clock() - start)
    return [min(times[1:]) for times in taken]
