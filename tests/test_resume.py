"""Runs that are killed, stopped or changed: what comes out is what would have come out."""

import json
import signal
import subprocess
import sys

import pytest
import torch

import train as train_script
from benchmarks.kill import Tripwire, equal
from object_centric_bench import commandline, interruption
from object_centric_bench.datum import shapes
from object_centric_bench.learn import checkpoint
from object_centric_bench.learn.gather import Processes

from .conftest import REPOSITORY
from .test_distributed import ENVIRONMENT, TINY


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_equal_to_the_bit():
    """Weights, optimizer, log, losses, best checkpoint and scores; by time, and inside the writing of checkpoints."""
    command = [sys.executable, "-m", "benchmarks.kill", "--kills", "6", "--seed", "1"]
    done = subprocess.run(command, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal to the bit" in done.stdout
    assert int(done.stdout.splitlines()[-2].split()[0]) >= 6


def test_the_benchmark_would_see_a_difference():
    first = {"a": [torch.zeros(2), 1.0], "b": None}
    assert equal(first, {"a": [torch.zeros(2), 1.0], "b": None})
    assert not equal(first, {"a": [torch.tensor([0.0, 1e-45]), 1.0], "b": None})
    assert not equal(first, {"a": [torch.zeros(2, dtype=torch.float64), 1.0], "b": None})
    assert not equal(first, {"a": [torch.zeros(2), 1.0]})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    shapes.convert(folder / "shapes", num_train=8, num_val=3, size=64)
    return folder


def train(data, save, *arguments):
    """Run `train.py` on the tiny config; return its exit code, stdout and stderr."""
    command = [sys.executable, "train.py", "--cfg_file", TINY, "--data_dir", data, "--save_dir", save, "--device=cpu"]
    done = subprocess.run(
        [*map(str, command), "--viz=0", *map(str, arguments)],
        cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_what_users_may_do_with_an_earlier_run(data, tmp_path):
    short = ["total_steps=4", "eval_every=2"]
    folder = tmp_path / "tiny" / "42"
    code, _, err = train(data, tmp_path, *short, "--resume=must")
    assert code == 2 and "holds no checkpoint `last`" in err
    assert train(data, tmp_path, *short)[0] == 0
    weights = (folder / "last" / "model.safetensors").read_bytes()

    code, out, _ = train(data, tmp_path, *short)  # finished: scored again
    assert code == 0
    assert "is finished, at step 4: not trained again" in out
    assert "scores of the best checkpoint" in out
    assert (folder / "last" / "model.safetensors").read_bytes() == weights

    code, _, err = train(data, tmp_path, *short, "optimizer.lr=0.5")
    assert code == 2
    assert "- optimizer.lr = 0.001" in err and "+ optimizer.lr = 0.5" in err and "--resume_anyway" in err

    code, out, _ = train(data, tmp_path, "total_steps=6", "eval_every=2", "--resume_anyway")
    assert code == 0
    assert "resumed under another config" in out and "at step 4 of 6" in out
    described = json.loads((folder / "env.json").read_text())
    (resumed,) = described["resumed"]
    assert resumed["step"] == 4
    assert {"- total_steps = 4", "+ total_steps = 6"} <= set(resumed["config_diff"])
    steps = [line.split(",")[0] for line in (folder / "losses.csv").read_text().splitlines()[1:]]
    assert steps == [str(step) for step in range(6)]

    code, out, _ = train(data, tmp_path, *short, "--resume=never")
    assert code == 0 and "an earlier run was moved to" in out
    assert (tmp_path / "tiny" / "42-earlier-1" / "best").is_dir()


@pytest.mark.slow
def test_a_time_limit_saves_and_ends_with_three(data, tmp_path):
    code, _, err = train(data, tmp_path, "total_steps=100000", "eval_every=100000", "log_every=1", "--time_limit=25s")
    assert code == 3, err
    assert "stopping after this step (the time is over)" in err or "the time is over; no run was training" in err


def test_a_signal_while_a_stopped_process_ends_does_not_change_its_code():
    """srun, when the first process of a job ends with 3, sends SIGTERM to the others, which are about to."""
    script = (
        "import signal, sys\nfrom object_centric_bench import job\n"
        "def stopped():\n    raise job.Resumable('saved')\n"
        "code = job.guarded(stopped)\nsignal.raise_signal(signal.SIGTERM)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True)
    assert done.returncode == 3, done.stderr


class TestInterruption:
    """Signals, without a process of their own."""

    class Run:
        stop = False
        processes = Processes()

    def test_a_signal_while_training_ends_it_after_the_step(self, capsys):
        run = self.Run()
        with interruption.Interruption() as guard, guard.training(run):
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)  # launchers may send several
        assert run.stop
        assert capsys.readouterr().err.count("stopping after this step (SIGTERM came)") == 1

    def test_a_signal_at_any_other_time_leaves_at_once(self):
        with pytest.raises(interruption.Resumable, match="SIGUSR1 came"), interruption.Interruption():
            signal.raise_signal(signal.SIGUSR1)

    def test_the_second_ctrl_c_leaves_at_once(self):
        run = self.Run()
        with pytest.raises(KeyboardInterrupt), interruption.Interruption() as guard, guard.training(run):
            signal.raise_signal(signal.SIGINT)
            assert run.stop
            signal.raise_signal(signal.SIGINT)

    def test_time_that_is_over(self):
        run = self.Run()
        with interruption.Interruption(time_limit=0.01) as guard, guard.training(run):
            while not run.stop:
                signal.sigtimedwait([], 0.01)

    def test_what_was_set_before_is_set_again(self):
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
        with interruption.Interruption(time_limit=100.0):
            pass
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == before
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("3h50m", 13800), ("90m", 5400), ("600", 600), ("1d12h", 129600), ("45s", 45)]
)
def test_durations(text, seconds):
    assert commandline.duration(text) == seconds


@pytest.mark.parametrize("text", ["0", "-3", "", "1.5", "many"])
def test_no_step_to_repeat(text, capsys):
    with pytest.raises(SystemExit) as ended:
        train_script.parse(["--reproduce", "save/tiny/42", f"--steps={text}"])
    assert ended.value.code == 2 and "is no whole number, 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "0", "soon", "3h 50m", "-5m", "5m3h"])
def test_what_is_no_duration(text):
    with pytest.raises(commandline.argparse.ArgumentTypeError, match="3h50m"):
        commandline.duration(text)


def test_what_a_kill_left_between_two_renamings_is_put_back(tmp_path):
    model = torch.nn.Linear(2, 2)
    checkpoint.save(tmp_path / "best", model, {"step": 1})
    (tmp_path / "best").rename(tmp_path / "best.old")
    checkpoint.save(tmp_path / "best.tmp", model, {"step": 2})
    checkpoint.recover(tmp_path / "best")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert checkpoint.read(tmp_path / "best" / checkpoint.WEIGHTS)[1]["step"] == 1
    checkpoint.recover(tmp_path / "best")  # nothing to do
    assert (tmp_path / "best").is_dir()


def test_a_tripwire_kills_inside_writing(tmp_path):
    script = (
        "from pathlib import Path\nfrom benchmarks.kill import Tripwire\nfrom object_centric_bench.learn.lines import "
        f"LineFile\nTripwire(2, 'middle').set()\nfile = LineFile(Path({str(tmp_path / 'log')!r}), 0)\n"
        "file.add(['first'])\nfile.add(['second'])\nprint('alive')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout == b""
    assert (tmp_path / "log").read_text() == "first\nsec"
    assert Tripwire(1, "before").left == 1
