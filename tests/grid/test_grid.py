"""Which runs are made, in what order, and what is not made twice."""

import errno
import json
import logging
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from object_centric_bench.datum import shapes
from object_centric_bench.grid import __main__ as grid
from object_centric_bench.grid import runner
from object_centric_bench.grid.__main__ import parse
from object_centric_bench.grid.plan import Job, finished, plan
from object_centric_bench.registry import ConfigError

from ..conftest import REPOSITORY
from ..terminal import Terminal

DEMO = REPOSITORY / "config-demo"
TRAIN = """
import json, os, sys
from pathlib import Path
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
name = Path(options["--cfg_file"]).stem
with open(os.environ["RECORD"], "a") as record:
    record.write(f"{name} {options['--seed']} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
code = json.loads(os.environ.get("CODES", "{}")).get(name, 0)
if code:
    print("error: it went wrong", file=sys.stderr)
sys.exit(code)
"""


def test_an_equals_sign_in_the_value_of_an_option_makes_no_override():
    command = "a.py lr=1e-4 --data_dir /tmp/a=b --out c=d --train-options e=f /tmp/g=h/b.py"
    options = parse(f"{command} --seeds 1 2 total_steps=4 --save_dir=i=j".split())
    assert options.files == [Path("a.py"), Path("/tmp/g=h/b.py")]
    assert options.overrides == ["lr=1e-4", "total_steps=4"]
    assert (options.data_dir, options.out, options.save_dir) == ("/tmp/a=b", "c=d", "i=j")
    assert (options.train_options, options.seeds) == ("e=f", [1, 2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lr=1e-4"], "name one config at least"),
        (["a.py", "--seeds", "lr=1e-4"], "name one seed at least"),
        (["--seeds", "1", "a.py"], "'a.py' is no whole number; configs stand before the seeds"),
    ],
)
def test_a_command_line_without_configs_or_seeds_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(arguments)
    assert message in capsys.readouterr().err


def test_a_shared_first_stage_is_made_once_and_first():
    jobs = plan([DEMO / "vvo_tfd9-shapes.py", DEMO / "vvo_tfd-shapes.py", DEMO / "dinosaur-shapes.py"], [1, 2], [])
    names = [(job.name, job.seed, job.scored) for job in jobs]
    assert names.count(("vqshapes-k16", 1, False)) == 1 and len(jobs) == 8
    assert all(job.needs is None or jobs.index(job.needs) < jobs.index(job) for job in jobs)
    assert {job.name: job.needs and job.needs.name for job in jobs}["vvo_tfd-shapes"] == "vqshapes-k16"


def test_configs_of_one_name_are_refused(tmp_path):
    (tmp_path / "dinosaur-shapes.py").write_text("")
    with pytest.raises(ConfigError, match="share a folder"):
        plan([DEMO / "dinosaur-shapes.py", tmp_path / "dinosaur-shapes.py"], [1], [])


@pytest.fixture
def fake(tmp_path, monkeypatch):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(runner, "gpus", lambda: [])

    def run(jobs):
        outcome = runner.run(jobs, script, tmp_path, tmp_path / "save", [])
        record = tmp_path / "record"
        return outcome, record.read_text().splitlines() if record.exists() else []

    return run


def test_what_needs_a_failed_run_is_not_started_the_rest_is(fake, monkeypatch):
    monkeypatch.setenv("CODES", json.dumps({"vqshapes": 2}))
    outcome, record = fake(plan([DEMO / "vvo_mlp-shapes.py", DEMO / "dinosaur-shapes.py"], [1], []))
    assert record == ["vqshapes 1 None", "dinosaur-shapes 1 None"]
    assert not outcome.interrupted
    assert any("vqshapes, seed 1: exit code 2. error: it went wrong" in message for message in outcome.failed)
    assert any("vvo_mlp-shapes, seed 1: not started" in message for message in outcome.failed)


def test_a_bar_tells_on_terminals_how_many_runs_are_made(fake, monkeypatch, capsys):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    fake(plan([DEMO / "dinosaur-shapes.py"], [1, 2], []))
    assert "grid:" in stream.getvalue() and "2/2 [" in stream.getvalue()
    assert "done   dinosaur-shapes, seed 2" in capsys.readouterr().out


@pytest.mark.parametrize(("level", "said"), [(logging.WARNING, 0), (logging.INFO, 3), (logging.DEBUG, 3)])
def test_quiet_says_nothing_of_single_runs_and_verbose_the_command_too(fake, caplog, capsys, level, said):
    with caplog.at_level(level, logger="object_centric_bench"):
        fake(plan([DEMO / "dinosaur-shapes.py"], [1], []))
    assert len(capsys.readouterr().out.splitlines()) == said
    commands = [record.message for record in caplog.records if "--cfg_file" in record.message]
    assert len(commands) == (level == logging.DEBUG)
    assert all("train.py" in command or "--seed 1" in command for command in commands)


def test_a_disk_full_under_the_table_is_one_message(tmp_path, monkeypatch, capsys, caplog):
    @contextmanager
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device", str(file))
        yield

    monkeypatch.setattr(grid, "replacing", full)
    monkeypatch.setattr(grid, "run", lambda *arguments: runner.Outcome([]))
    arguments = [str(DEMO / "dinosaur-shapes.py"), "--save_dir", str(tmp_path), "--quiet"]
    with caplog.at_level(logging.INFO, logger="object_centric_bench"):  # restores what --quiet sets
        assert grid.main(arguments) == 2
    assert f"error: {tmp_path}/grid/table.md: No space left on device" in capsys.readouterr().err


def test_a_run_that_was_stopped_ends_the_grid_resumable(fake, monkeypatch):
    monkeypatch.setenv("CODES", json.dumps({"dinosaur-shapes": 3}))
    outcome, record = fake(plan([DEMO / "dinosaur-shapes.py", DEMO / "spot-shapes.py"], [1], []))
    assert outcome.interrupted and record == ["dinosaur-shapes 1 None"]


def test_every_gpu_gets_a_process_of_its_own(fake, monkeypatch):
    monkeypatch.setattr(runner, "gpus", lambda: ["0", "3"])
    outcome, record = fake(plan([DEMO / "dinosaur-shapes.py"], [1, 2, 3, 4], []))
    assert not outcome.failed and len(record) == 4
    assert {line.split()[2] for line in record} == {"0", "3"}


def test_gpus_follow_the_environment(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-abc")
    assert runner.gpus() == ["1", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert runner.gpus() == []


def test_a_run_of_another_config_is_refused_with_the_difference(tmp_path):
    job = Job(DEMO / "dinosaur-shapes.py", 1)
    folder = job.folder(tmp_path)
    folder.mkdir(parents=True)
    assert not finished(job, tmp_path)
    from object_centric_bench import config

    (folder / "config.json").write_text(json.dumps(config.load(job.cfg_file, ["lr=0.5"])))
    with pytest.raises(ConfigError, match=r"optimizer\.lr = 0\.5"):
        finished(job, tmp_path)


def test_the_command_needs_no_torch_until_it_trains():
    command = (
        "import sys; from object_centric_bench.grid import __main__ as grid; grid.main(sys.argv[1:]); "
        "print('torch' in sys.modules)"
    )
    arguments = ["config-demo/vvo_mlp-shapes.py", "--seeds", "42", "--dry_run"]
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["vqshapes, seed 42", "vvo_mlp-shapes, seed 42", "False"]


@pytest.mark.slow
def test_a_real_grid_trains_scores_prints_compares_and_is_not_run_twice(tmp_path):
    shapes.convert(tmp_path / "data" / "shapes", num_train=8, num_val=6, size=64)
    configs = ["config-demo/dinosaur-shapes.py", "config-demo/spot-shapes.py", "total_steps=4", "batch_size=4"]
    common = ["--seeds", "1", "2", "--save_dir", str(tmp_path / "save")]
    base = [sys.executable, "-m", "object_centric_bench.grid"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def grid(*arguments):
        return subprocess.run(
            [*base, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False, env=environment
        )

    first = grid(*configs, *common, "--data_dir", str(tmp_path / "data"))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "4 runs: 0 are there, 4 to make" in first.stdout
    assert (tmp_path / "save" / "grid" / "table.tex").is_file()
    again = grid(*configs, *common, "--data_dir", str(tmp_path / "data"))
    assert "4 are there, 0 to make" in again.stdout
    assert again.stdout.split("\n\n")[0].splitlines()[1:] == first.stdout.split("\n\n")[0].splitlines()[-4:]
    compared = grid("compare", *configs, *common)
    assert compared.returncode == 0, compared.stderr
    assert "A = dinosaur-shapes, B = spot-shapes; 2 seeds, 6 images each" in compared.stdout
    none = grid("compare", *configs, "--seeds", "3", "--save_dir", str(tmp_path / "save"))
    assert none.returncode == 2 and "no seed of both" in none.stderr
