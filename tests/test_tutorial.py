"""The tutorial's code does what the page says: its blocks are written to files and its commands are run."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from object_centric_bench.datum import shapes

from .conftest import REPOSITORY

TUTORIAL = REPOSITORY / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the project with the tutorial's files written into it, and small demo scenes."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("object_centric_bench", "config-demo"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "requirements.txt"):
        shutil.copy(REPOSITORY / name, folder / name)
    for language, name, text in BLOCK.findall(TUTORIAL.read_text()):
        if language == "python":
            assert not (folder / name).exists()
            (folder / name).write_text(text)
    shapes.convert(folder / "data" / "shapes", num_train=24, num_val=8, size=128)
    return folder


def run(command, folder, *overrides):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = command.split()
    assert words[0] == "python"
    return subprocess.run(
        [sys.executable, *words[1:], *overrides],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


@pytest.mark.slow
def test_the_tutorial_runs_as_it_stands(checkout):
    commands = [line for language, _, text in BLOCK.findall(TUTORIAL.read_text()) if language == "sh"
                for line in text.splitlines()]  # fmt: skip
    assert len(commands) == 4
    shown = run(commands[0], checkout)
    assert "model.type = 'AttentionBlend'" in shown.stdout, shown.stderr
    assert "total_steps = 300" in shown.stdout
    trained = run(commands[1].replace("300", "40"), checkout, "callback.1.every=10", "batch_size=4")
    assert trained.returncode == 0, trained.stderr
    log = checkout / "save" / "attention_blend-shapes" / "42" / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    recon = [row["loss/recon"] for row in rows if row["split"] == "train"]
    assert recon[-1] < 0.97 * recon[0]
    for command in commands[2:]:
        words = f"{command} --save_dir grid" + (" --seeds 42 43" if "compare" in command else "")
        done = run(words, checkout, "total_steps=4", "batch_size=4")
        assert done.returncode == 0, done.stdout + done.stderr
    assert "A = attention_blend-shapes, B = dinosaur-shapes; 2 seeds, 8 images each" in done.stdout
