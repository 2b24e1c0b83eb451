"""Several processes on the CPU: losses, weights and scores are those of one; what happens if one dies."""

import csv
import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from object_centric_bench.datum import shapes
from object_centric_bench.learn import checkpoint

from .conftest import REPOSITORY

TINY = "benchmarks/tiny.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
# no noise: no drawn slots, no dropout; the last batch of an epoch, of 13 samples, has one sample: fewer than processes
STEADY = ["slots=LearnedSlots", "dropout=0.0", "batch_size=4", "total_steps=20", "eval_every=10", "save_every=7"]
NOISY = ["batch_size=4", "total_steps=6", "eval_every=6"]
pytestmark = pytest.mark.slow


def training(data, save, *arguments):
    """Return the arguments of a training run; its folder is `save/tiny/3`."""
    common = ["--cfg_file", TINY, "--data_dir", data, "--save_dir", save, "--device=cpu", "--seed=3", "--viz=2"]
    return [str(each) for each in [*common, *arguments]]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    shapes.convert(folder / "shapes", num_train=13, num_val=8, size=64)
    return folder


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """All runs of this file, one after the other: name -> codes and output by process. They lie in `runs.folder`."""
    folder = tmp_path_factory.mktemp("runs")

    def evaluation(name):
        scored = folder / "alone" / "tiny" / "3"
        arguments = ["--ckpt_file", scored, "--data_dir", data, "--device=cpu", "--viz=3", "--out", folder / name]
        return "eval", [str(each) for each in arguments]

    commands = {
        "alone": (1, "train", training(data, folder / "alone", *STEADY)),
        "two": (2, "train", training(data, folder / "two", *STEADY)),
        "two, stopped": (2, "train", training(data, folder / "goes on alone", *STEADY), 8),
        "goes on alone": (1, "train", training(data, folder / "goes on alone", *STEADY, "--resume=must")),
        "one, stopped": (1, "train", training(data, folder / "goes on with two", *STEADY), 8),
        "goes on with two": (2, "train", training(data, folder / "goes on with two", *STEADY, "--resume=must")),
        "noise": (2, "train", training(data, folder / "noise", *NOISY)),
        "same noise": (2, "train", training(data, folder / "same", *NOISY)),
        "small batch": (2, "train", training(data, folder / "small", "batch_size=1")),
        **{f"eval {count}": (count, *evaluation(f"eval {count}")) for count in (1, 2, 4)},
    }
    command = [sys.executable, "-m", "tests.processes", json.dumps(list(commands.values()))]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return folder, dict(zip(commands, map(json.loads, done.stdout.splitlines()), strict=True))


def losses(folder):
    with (folder / "tiny" / "3" / "losses.csv").open() as file:
        return [[float(cell) for cell in row.values()] for row in csv.DictReader(file)]


# Its last entry is added to the logits of all slots' masks, which softmax does not see: the gradient is nothing but
# rounding, of which Adam makes steps as large as any.
MASK_BIAS = "decoder.layers.1.bias"


def require_alike(folder, other):
    """Compare losses of every step to 1e-5, and the weights."""
    first, second = losses(other), losses(folder)
    assert [row[0] for row in first] == [row[0] for row in second] == list(range(20))
    for one, two in zip(first, second, strict=True):
        assert two[1:] == pytest.approx(one[1:], rel=1e-5, abs=1e-7)
    tensors = [checkpoint.read(each / "tiny" / "3" / "last" / checkpoint.WEIGHTS)[0] for each in (folder, other)]
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        difference = (tensor - tensors[1][name]).abs()
        if name == MASK_BIAS:
            difference = difference[:-1]
        assert float(difference.max()) < 1e-4, name


def test_two_processes_train_like_one(runs):
    folder, outcomes = runs
    assert outcomes["alone"]["codes"] == [0], outcomes["alone"]["output"]
    assert outcomes["two"]["codes"] == [0, 0], outcomes["two"]["output"]
    require_alike(folder / "two", folder / "alone")
    main, other = outcomes["two"]["output"]
    assert main.count("scores of the best checkpoint") == 1
    assert "scores" not in other and "step" not in other  # only the main process talks
    assert json.loads((folder / "two/tiny/3/env.json").read_text())["processes"] == 2
    logs = [(folder / name / "tiny" / "3" / "log.jsonl").read_text().splitlines() for name in ("two", "alone")]
    rows = [[json.loads(line) for line in log] for log in logs]
    assert [(row["split"], row["step"]) for row in rows[0]] == [(row["split"], row["step"]) for row in rows[1]]
    for found, expected in zip(*rows, strict=True):  # scores of training batches and health of slots are gathered too
        assert found.keys() == expected.keys()
        for key in ("slots/effective", "slots/attention_entropy", "score/mbo"):
            if key in expected and found["step"] <= 3:
                assert found[key] == pytest.approx(expected[key], rel=1e-3), key


@pytest.mark.parametrize(("first", "second"), [("two, stopped", "goes on alone"), ("one, stopped", "goes on with two")])
def test_all_stop_when_one_is_asked_to_and_another_number_goes_on(runs, first, second):
    folder, outcomes = runs
    count = len(outcomes[first]["codes"])
    assert outcomes[first]["codes"] == [3] * count, outcomes[first]["output"]
    text = outcomes[first]["output"][0]
    assert "last good checkpoint" in text and "The same command continues." in text
    assert set(outcomes[second]["codes"]) == {0}, outcomes[second]["output"]
    step = 9 if count == 1 else 10  # word of the signal takes a step to reach the others
    assert f"at step {step} of 20" in outcomes[second]["output"][0]
    require_alike(folder / second, folder / "alone")


def test_evaluation_is_the_same_for_any_number_of_processes(runs):
    """Three batches: one of two processes has one more, one of four has none."""
    folder, outcomes = runs
    results = {}
    for count in (1, 2, 4):
        assert outcomes[f"eval {count}"]["codes"] == [0] * count, outcomes[f"eval {count}"]["output"]
        out = folder / f"eval {count}"
        results[count] = json.loads((out / "eval.json").read_text()) | {"png": (out / "pictures.png").read_bytes()}
    for count in (2, 4):
        assert results[count]["scores"] == pytest.approx(results[1]["scores"], rel=0, abs=1e-9)
        assert results[count]["images"] == results[1]["images"]
        assert results[count]["excluded"] == results[1]["excluded"]
        assert results[count]["png"] == results[1]["png"]


def test_each_process_draws_noise_of_its_own_and_the_run_repeats(runs):
    folder, outcomes = runs
    assert outcomes["noise"]["codes"] == outcomes["same noise"]["codes"] == [0, 0]
    files = [(folder / name / "tiny/3/losses.csv").read_bytes() for name in ("noise", "same")]
    assert files[0] == files[1]


def test_a_batch_smaller_than_the_number_of_processes_is_refused(runs):
    outcome = runs[1]["small batch"]
    assert outcome["codes"] == [2, 2]
    assert "error: dataset.batch_size: 1 samples over all of 2 processes" in outcome["output"][0]
    assert "error in process 1:" in outcome["output"][1]


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node=2"],
    "accelerate launch": ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--main_process_port=0"],
}


@pytest.fixture(params=LAUNCHERS)
def launched(request, data, tmp_path):
    """A run of two processes under a launcher, in the midst of training: the launcher and its workers by rank."""
    arguments = training(data, tmp_path, *STEADY, "total_steps=100000", "eval_every=100000", "log_every=1")
    command = [sys.executable, "-m", *LAUNCHERS[request.param], "train.py"]
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "tiny" / "3" / "losses.csv"
    deadline = time.monotonic() + 240
    while not (log.exists() and log.read_text().count("\n") > 2) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    workers = {each.environ()["RANK"]: each for each in psutil.Process(process.pid).children()}
    yield process, workers, tmp_path / "tiny" / "3"
    for each in [*workers.values(), process]:
        if each.is_running() if isinstance(each, psutil.Process) else each.poll() is None:
            each.kill()


def test_a_process_that_dies_ends_the_others_within_a_minute(launched):
    process, workers, _ = launched
    workers["1"].kill()
    began = time.monotonic()
    _, err = process.communicate(timeout=90)
    assert time.monotonic() - began < 60
    assert process.returncode != 0
    assert "rank      : 1" in err and "SIGKILL" in err
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in workers.values())
