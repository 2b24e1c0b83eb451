"""The table that all benchmarks share; none is run here, for tests are never timed."""

import itertools
import subprocess
import sys

import pytest

from benchmarks.table import Line, markdown, row, seconds
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    "line, ratio, met",
    [
        (Line("a", 2.0, "ms", floor=1.0, target=0.65), 0.5, False),
        (Line("a", 2.0, "ms", floor=6.0, target=3.0), 3.0, True),
        (Line("a", 90.0, "GFLOP/s", floor=100.0, target=0.85, more_is_better=True), 0.9, True),
        (Line("a", 90.0, "GFLOP/s", floor=100.0, target=0.95, more_is_better=True), 0.9, False),
        (Line("a", 2.0, "ms", floor=1.0), 0.5, None),
        (Line("a", 2.0, "MiB"), None, None),
    ],
)
def test_ratios_say_how_much_better_than_the_floor(line, ratio, met):
    assert line.ratio == ratio and line.met is met


def test_table():
    lines = [
        Line("step", 0.5, "s", 0.25, "floor: a | b", 0.65),
        Line("peak", 512.0, "MiB"),
    ]
    assert markdown(lines).splitlines() == [
        "| what | measured | floor | ratio | target | met |",
        "| --- | --- | --- | --- | --- | --- |",
        "| step | 0.5 s | 0.25 s (floor: a / b) | 0.50 | >= 0.65 | no |",
        "| peak | 512 MiB |  |  |  |  |",
    ]
    assert row(["a|b"]) == "| a/b |"


def test_functions_take_turns_and_the_least_counts():
    clock = itertools.accumulate([0, 9, 0, 9, 0, 5, 0, 2, 0, 3, 0, 4])  # two functions: warm-up, then two rounds
    calls = []
    taken = seconds([lambda: calls.append("a"), lambda: calls.append("b")], 2, lambda: next(clock))
    assert taken == [3, 2] and calls == ["a", "b"] * 3


def test_a_name_that_is_none_is_refused():
    command = [sys.executable, "-m", "benchmarks", "nothing"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert run.returncode == 2
    assert "no benchmark nothing; there are " in run.stderr and "data" in run.stderr and "metric" in run.stderr
