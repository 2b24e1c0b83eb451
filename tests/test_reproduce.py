"""Repeating the first steps of a run: what is equal, what differs, what cannot be repeated; and what a run notes."""

import json
import shutil
import subprocess

import pytest

from object_centric_bench import config, experiment, provenance, reproduce, training
from object_centric_bench.datum import shapes
from object_centric_bench.experiment import Settings
from object_centric_bench.interruption import Interruption
from object_centric_bench.registry import ConfigError

from .conftest import REPOSITORY

TINY = REPOSITORY / "benchmarks" / "tiny.py"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of some steps with drawn slots, augmented data and a frozen backbone."""
    data = tmp_path_factory.mktemp("data")
    shapes.convert(data / "shapes", num_train=8, num_val=3, size=64)
    cfg = experiment.complete(config.load(TINY, ["batch_size=3", "total_steps=6", "eval_every=4"]))
    settings = Settings(data, data / "save", seed=3, device="cpu")
    training.train_one(cfg, str(TINY), settings, None, training.Resuming(), Interruption())
    return data / "save" / "tiny" / "3"


@pytest.fixture
def folder(finished, tmp_path):
    copy = tmp_path / "tiny" / "3"
    shutil.copytree(finished, copy)
    return copy


def test_all_steps_come_back(folder):
    outcome = reproduce.reproduce(folder, 100, None, "auto")
    assert outcome.first is None and outcome.steps == 6
    assert outcome.largest == 0.0
    lines = [line for line in outcome.lines() if "git_diff" not in line]  # somebody may be at work on the code
    assert lines == ["all losses of 6 steps are equal to the bit"]
    assert reproduce.reproduce(folder, 2, None, "cpu").steps == 2


def test_the_first_step_that_differs_is_named_and_what_changed(folder):
    lines = (folder / "losses.csv").read_text().splitlines()
    step, loss, norm = lines[4].split(",")
    lines[4] = f"{step},{float(loss) * (1 + 1e-6):.9g},{norm}"
    (folder / "losses.csv").write_text("\n".join(lines) + "\n")
    described = json.loads((folder / "env.json").read_text())
    described["packages"]["torch"] = "1.0"
    described["data"]["train"]["sha256"] = "0"
    described["resumed"] = [{"step": 4}, {"step": 5, "config_diff": ["- optimizer.lr = 0.001", "+ optimizer.lr = 0.1"]}]
    (folder / "env.json").write_text(json.dumps(described))
    outcome = reproduce.reproduce(folder, 5, None, "auto")
    assert outcome.first == 3
    assert 0.5e-6 < outcome.largest < 2e-6
    text = "\n".join(outcome.lines())
    assert "the first step that differs is step 3" in text
    assert f"recon: was {lines[4].split(',')[1]}, is {loss}" in text
    assert "not as it was: packages torch: was 1.0" in text
    assert "not as it was: data train" in text
    assert "not as it was: config: from step 5 on it was another" in text and text.count("config:") == 1


def test_what_a_run_notes_of_its_making(folder):
    described = json.loads((folder / "env.json").read_text())
    for key in ("command", "git_commit", "packages", "hardware", "device", "precision", "data_dir"):
        assert described[key], key
    assert described["seed"] == 3
    assert described["packages"]["torch"] and described["hardware"]["cores"] >= 1
    assert described["data"]["train"]["bytes"] > 0
    assert len(described["data"]["eval"]["sha256"]) == 64
    status = subprocess.run(["git", "diff", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (described["git_diff"] is None) == (status.stdout.strip() == "")


@pytest.mark.parametrize("name", ["config.json", "env.json", "losses.csv"])
def test_a_folder_that_says_too_little_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"holds no {name}"):
        reproduce.reproduce(folder, 1, None, "auto")


def test_a_first_stage_that_changed_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    with pytest.raises(ConfigError, match="which is gone"):
        reproduce.source_of({"file": str(file), "sha256": "0"})
    file.write_bytes(b"weights")
    with pytest.raises(ConfigError, match="has changed since"):
        reproduce.source_of({"file": str(file), "sha256": "0"})
    assert reproduce.source_of(training.origin(file)) == file


def test_checksums_of_large_files_read_spread_blocks_only(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "BLOCK", 4)
    monkeypatch.setattr(provenance, "BLOCKS", 3)
    file = tmp_path / "data"
    found = set()
    for change in (None, 0, 48, 99):  # in the first, middle and last block
        content = bytearray(100)
        if change is not None:
            content[change] = 1
        file.write_bytes(content)
        found.add(provenance.data_checksum(file))
    assert len(found) == 4


def test_a_long_diff_is_cut_and_known_by_its_hash(monkeypatch):
    monkeypatch.setattr(provenance, "LONGEST_DIFF", 10)
    monkeypatch.setattr(provenance, "_git", lambda *arguments: "x" * 20)
    assert provenance.git_diff().startswith("x" * 10 + "\n... cut; sha256 of all 20 characters: ")
