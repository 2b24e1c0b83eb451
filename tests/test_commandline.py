"""What the command lines share: the order of arguments, and output that a reader need not read to its end."""

import os
import subprocess
import sys

import pytest

import eval as eval_script
import train

from .conftest import REPOSITORY

DINOSAUR = "config-dinosaur/dinosaur_r-coco.py"


def test_overrides_may_stand_in_several_groups_around_options():
    arguments = ["a=1", "--cfg-file", "x.py", "b=2", "c.d=[1, 2]", "--seed=7", "e=--5"]
    options = train.parse(arguments)
    assert (options.cfg_file, options.seed) == ("x.py", 7)
    assert options.overrides == ["a=1", "b=2", "c.d=[1, 2]", "e=--5"]
    options = eval_script.parse(["a=1", "--ckpt_file", "best", "--data_dir", "data", "b=2", "--viz", "3", "c=4"])
    assert (options.ckpt_file, options.viz, options.overrides) == ("best", 3, ["a=1", "b=2", "c=4"])


def test_unknown_options_and_missing_ones_are_still_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        train.parse(["a=1", "--sede", "3", "b=2"])
    assert "unrecognized arguments: --sede" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        eval_script.parse(["a=1", "--data_dir", "data", "b=2"])
    assert "--ckpt_file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "object_centric_bench.config", "show", DINOSAUR],
        ["-m", "object_centric_bench.config", "diff", DINOSAUR, "config-vqdino/vqdino-coco-c256.py"],
        ["train.py", "--cfg_file", DINOSAUR, "--print_cfg"],
    ],
    ids=["show", "diff", "print_cfg"],
)
def test_a_reader_that_closes_the_pipe_is_no_error(command):
    reading, writing = os.pipe()
    os.close(reading)  # before a line is written
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
