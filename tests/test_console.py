"""Manners of the command lines: help that fits a screen, messages and progress bars that can be turned off."""

import io
import logging
import sys

import pytest

import convert
import eval as eval_script
import train
from object_centric_bench import config, console, job
from object_centric_bench.datum import shapes
from object_centric_bench.grid import __main__ as grid
from object_centric_bench.model import published
from object_centric_bench.registry import ConfigError

from .terminal import Terminal

PACKAGE = logging.getLogger("object_centric_bench")
COMMANDS = {
    "train": (train.main, []),
    "eval": (eval_script.main, []),
    "convert": (convert.main, []),
    **{f"convert {name}": (convert.main, [name]) for name in convert.COMMANDS},
    "grid": (grid.main, []),
    "config": (config.main, []),
    "config show": (config.main, ["show"]),
    "config diff": (config.main, ["diff"]),
    "published": (published.main, []),
}


@pytest.fixture(autouse=True)
def level():
    """Put the package's logging level back, which a command sets for its process."""
    before = PACKAGE.level
    yield
    PACKAGE.setLevel(before)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen_and_shows_examples(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    main, arguments = COMMANDS[name]
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    (start,) = [number for number, line in enumerate(lines) if line.startswith("example")]
    assert any("python " in line and name.split()[-1] in line for line in lines[start:])


@pytest.mark.parametrize("main", [train.main, eval_script.main, convert.main, grid.main])
def test_help_tells_the_exit_codes(main, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("exit codes: 0 done, 2 ")]
    assert "130 interrupted" in line


@pytest.mark.parametrize(
    ("flags", "level"), [([], logging.INFO), (["--quiet"], logging.WARNING), (["--verbose"], logging.DEBUG)]
)
def test_flags_set_the_level_that_a_job_runs_under(flags, level, capsys):
    seen = []

    def work():
        seen.append(PACKAGE.level)
        console.say("on the way")
        print("a result")
        return 0

    assert job.guarded(work, train.parse(flags).level) == 0
    assert seen == [level]
    expected = ["a result"] if level == logging.WARNING else ["on the way", "a result"]
    assert capsys.readouterr().out.splitlines() == expected
    assert eval_script.parse(["--ckpt_file", "x", *flags]).level == level


def test_quiet_and_verbose_exclude_each_other(capsys):
    with pytest.raises(SystemExit, match="2"):
        train.parse(["--quiet", "--verbose"])
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--quiet"], ["--verbose"]])
def test_only_verbose_shows_where_an_error_of_use_was_found(flags, capsys):
    def work():
        raise ConfigError("lr: a number is wanted")

    assert job.guarded(work, train.parse(flags).level) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "error: lr: a number is wanted"
    assert (len(lines) > 1) == any(line.startswith("Traceback") for line in lines) == (flags == ["--verbose"])
    assert convert.main(["inspect", "missing.lmdb", *flags]) == 2
    text = capsys.readouterr().err
    assert "convert.py: error: " in text and ("Traceback" in text) == (flags == ["--verbose"])


@pytest.mark.parametrize(
    ("terminal", "level", "shown"),
    [
        (True, logging.NOTSET, True),
        (True, logging.INFO, True),
        (True, logging.WARNING, False),
        (False, logging.INFO, False),
    ],
)
def test_progress_bars_are_for_terminals_and_never_when_quiet(tmp_path, monkeypatch, terminal, level, shown):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    PACKAGE.setLevel(level)
    shapes.convert(tmp_path, num_train=4, num_val=2, size=16)
    assert ("train.lmdb" in stream.getvalue() and "sample/s" in stream.getvalue()) == shown
    assert "\x1b[3" not in stream.getvalue()  # no colours
