"""Things that go wrong around a run: what a user sees, and that nothing which was saved is lost.

Elsewhere: a full disk under a conversion (`datum/test_conversion.py`) and a cut, changed or unfinished LMDB
(`datum/test_lmdb.py`), a killed data worker (`datum/test_loader.py`), a damaged cache (`datum/test_cache.py`),
processes killed at any moment (`test_resume.py`), a process of several that dies (`test_distributed.py`).
"""

import errno
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import msgpack
import pytest
import torch
from safetensors.torch import save_file

from object_centric_bench import config as configs
from object_centric_bench import restore, training
from object_centric_bench.datum import environment, shapes
from object_centric_bench.datum.cache import Cache, CacheFull
from object_centric_bench.datum.lmdb import Header, Reader, header_value
from object_centric_bench.datum.record import seal
from object_centric_bench.files import DISK, replacing
from object_centric_bench.learn import checkpoint, log
from object_centric_bench.learn.checkpoint import CheckpointError
from object_centric_bench.learn.log import Log
from object_centric_bench.learn.loop import train
from object_centric_bench.learn.save import Save
from object_centric_bench.occupied import occupied
from object_centric_bench.registry import ConfigError

from .conftest import REPOSITORY
from .datum.stores import raw
from .learn.conftest import make_run  # noqa: F401, a fixture
from .test_distributed import ENVIRONMENT, TINY

# ------------------------------------------------------------------------------------------------- damaged checkpoints


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))


@pytest.fixture
def folder(tmp_path):
    """A checkpoint with weights and state."""
    network = model()
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path / "last", network, {"step": 3}, {"step": 3, "optimizer": optimizer.state_dict()})
    return tmp_path / "last"


def flat(value):
    """Return nested containers as one comparable value."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), value.tolist())
    if isinstance(value, dict):
        return {key: flat(entry) for key, entry in value.items()}
    return [flat(entry) for entry in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.STATE])
def test_a_flipped_bit_is_noticed_or_changes_nothing(folder, name):
    """Every fifth byte of both files; safetensors has no checksum of its own, and PyTorch ignores those it writes."""

    def content():
        if name == checkpoint.STATE:
            return flat(checkpoint.read_state(folder))
        tensors, info = checkpoint.read(folder / name)
        return flat(tensors), info.get("step")  # a flip in the checksum's name makes it an older file's

    whole, expected, noticed = (folder / name).read_bytes(), content(), 0
    positions = range(0, len(whole), 5)
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        (folder / name).write_bytes(damaged)
        try:
            assert content() == expected, position
        except CheckpointError as error:
            assert str(folder) in str(error)
            noticed += 1
    assert noticed > len(positions) // 3  # the rest are names and dates of archives, padding
    for length in range(0, len(whole), 97):
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=name):
            content()


def test_every_bit_of_the_weights_counts(folder):
    file = folder / checkpoint.WEIGHTS
    whole = bytearray(file.read_bytes())
    size = sum(each.nbytes for each in model().state_dict().values())
    for position in range(len(whole) - size, len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="checksum does not match"):
            checkpoint.read(file)


def test_weights_without_a_checksum_are_read(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"info": "{}"})
    assert checkpoint.read(tmp_path / "a.safetensors")[0]["a"].tolist() == [1, 1]


def run_to(make, stop):
    """Train the toy run, or go on with it, until a step after which it is asked to stop; return it."""

    class Stop:
        def after_step(self, run):
            run.stop = run.stop or run.step == stop

    run = make(callbacks=[Log(every=2, tensorboard=False), Save("error", higher=False, every_steps=1), Stop()])
    run.cfg = configs.DEFAULTS | run.cfg
    restore.resume(run, run.folder)
    train(run)
    return run


def damage(file, how):
    data = bytearray(file.read_bytes())
    data[data.index(b"best_value") if file.name == checkpoint.STATE else -2] ^= 4  # no padding
    file.write_bytes(data if how == "flipped" else data[: len(data) // 2])


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.STATE])
@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(make_run, tmp_path, caplog, name, how):  # noqa: F811
    whole = run_to(lambda **options: make_run("whole", **options), 100)
    run_to(lambda **options: make_run("run", **options), 6)
    damage(tmp_path / "run" / "last" / name, how)
    caplog.clear()
    again = run_to(lambda **options: make_run("run", **options), 100)
    (message,) = [record.getMessage() for record in caplog.records]
    assert name in message and "last.damaged, and the run goes on from the checkpoint before it" in message
    assert again.finished
    assert sorted(path.name for path in (tmp_path / "run").glob("*/")) == ["best", "last", "last.damaged", "last.old"]
    for file in ("log.jsonl", "losses.csv", "last/model.safetensors", "best/model.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    assert whole.step == again.step == 12


def test_without_a_whole_checkpoint_it_says_what_is_wrong_and_changes_nothing(make_run, tmp_path):  # noqa: F811
    run_to(lambda **options: make_run("run", **options), 6)
    for name in ("last", "last.old"):
        damage(tmp_path / "run" / name / checkpoint.STATE, "cut")
    text = r"last/state.pt .*the one before it: .*last.old/state.pt .*--resume never"
    with pytest.raises(CheckpointError, match=text):
        restore.resume(make_run("run"), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "last.old")
    with pytest.raises(CheckpointError, match=r"There is no earlier one to go on from: --resume never"):
        restore.resume(make_run("run"), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").glob("*/")} == {"best", "last"}


# --------------------------------------------------------------------------------------------------------- full disks


def in_process(function, *arguments):
    """Run a function in a forked process; return its exit code."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def limit_files(size):
    """Let no file of this process grow beyond so many bytes, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [10, 1000, 100_000])
def test_a_disk_full_while_saving_keeps_what_was_saved(tmp_path, size):
    def save(step):
        network = torch.nn.Linear(100, 300)
        checkpoint.save(tmp_path / "last", network, {"step": step}, {"step": step, "moments": torch.ones(90_000)})

    def save_again():
        limit_files(size)
        try:
            save(2)
        except CheckpointError as error:
            text = str(error)
            good = f"cannot write {tmp_path / 'last'}" in text and "MB are free there" in text and "make room" in text
            sys.exit(3 if good else 4)

    save(1)
    assert in_process(save_again) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["last"]  # and it takes no room
    assert checkpoint.read_state(tmp_path / "last")["step"] == 1
    assert checkpoint.read(tmp_path / "last" / checkpoint.WEIGHTS)[1]["step"] == 1


def test_a_disk_full_under_the_cache_is_said_and_leaves_nothing(tmp_path):
    def fill():
        limit_files(1000)
        cache = Cache(tmp_path / "cache", 1 << 30)
        try:
            with cache.lock("key"), cache.writer("key", 2, {}) as writer:
                writer.add(torch.ones(2, 1000))
                writer.commit()
        except CacheFull as error:
            sys.exit(3 if f"writing to {tmp_path / 'cache'} failed" in str(error) else 4)

    assert in_process(fill) == 3
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".key.lock"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    shapes.convert(folder / "shapes", num_train=8, num_val=3, size=64)
    return folder


def start(scenes, save, *arguments):
    """Start `train.py` on the tiny config."""
    command = [sys.executable, "train.py", "--cfg_file", TINY, "--data_dir", scenes, "--save_dir", save, "--device=cpu"]
    return subprocess.Popen(
        [*map(str, command), "--viz=0", *arguments],
        cwd=REPOSITORY, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_run_whose_log_met_a_full_disk_goes_on_later(make_run, tmp_path, monkeypatch):  # noqa: F811
    """Half a line was written then; at the end each step stands there once, as in a run that had room."""
    whole = run_to(lambda **options: make_run("whole", **options), 100)
    add = log.LineFile.add

    def limited(self, lines):
        if self.file.name == "losses.csv" and "\n5," in self.file.read_text():
            with self.file.open("a") as opened:
                opened.write("6,0.1")  # as much as there was room for
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.file))
        add(self, lines)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(log.LineFile, "add", limited)
        run_to(lambda **options: make_run("run", **options), 100)
    assert (tmp_path / "run" / "losses.csv").read_text().endswith("\n6,0.1")
    again = run_to(lambda **options: make_run("run", **options), 100)
    assert whole.step == again.step == 12
    for file in ("log.jsonl", "losses.csv", "last/model.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


@pytest.mark.slow
def test_what_a_user_sees_when_the_log_cannot_grow(scenes, tmp_path):
    """From the first line of the log on, no file may grow beyond 100 bytes."""
    script = (
        "import resource, signal, sys, train\nfrom object_centric_bench.learn import lines\nadd = lines.LineFile.add\n"
        "def limited(self, rows):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))\n"
        "    add(self, rows)\n"
        "lines.LineFile.add = limited\nsys.exit(train.main(sys.argv[1:]))"
    )
    arguments = ["--cfg_file", TINY, "--data_dir", scenes, "--save_dir", tmp_path, "--device=cpu", "--viz=0"]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments), "save_every=100", "eval_every=24"],
        cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot be written ([Errno 27] File too large" in done.stderr
    assert "the same command goes on from there" in done.stderr


def test_a_disk_full_while_a_file_is_replaced_names_it_and_leaves_the_old_one(tmp_path):
    file = tmp_path / "eval.json"
    file.write_text("old")

    def replace():
        limit_files(10)
        try:
            with replacing(file) as temporary:
                temporary.write_text("x" * 100)
        except OSError as error:
            sys.exit(3 if str(file) in str(error) and error.errno in DISK else 4)

    assert in_process(replace) == 3
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


@pytest.mark.slow
def test_a_disk_full_before_or_after_training_is_one_message(scenes, tmp_path):
    """From a moment on, no file may grow beyond 100 bytes; the same command goes on when there is room."""
    script = (
        "import resource, sys, train\nfrom object_centric_bench import job, provenance\n"
        "from object_centric_bench.learn import report\n"
        "def limited(*arguments):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))\n"
        "    return function(*arguments)\n"
        "function, {moment} = {moment}, limited\nsys.exit(train.main(sys.argv[1:]))"
    )
    arguments = ["--cfg_file", TINY, "--data_dir", scenes, "--save_dir", tmp_path, "--device=cpu", "--viz=0"]
    for moment, file in (("provenance.configs.show", "config.txt"), ("report.Scoring", "eval/eval.json")):
        done = subprocess.run(
            [sys.executable, "-c", script.format(moment=moment), *map(str, arguments), "total_steps=1"],
            cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert f"File too large: '{tmp_path / 'tiny' / '42' / file}'. Nothing that" in done.stderr
        assert "the same command again" in done.stderr
    again = start(scenes, tmp_path, "total_steps=1")
    assert "is finished, at step 1" in again.communicate(timeout=300)[0] and again.returncode == 0


# ------------------------------------------------------------------------------------------------ folders and two runs


def require_refused(folder, text):
    with pytest.raises(ConfigError, match=text), occupied(folder):
        raise AssertionError("it was let in")


def test_a_file_where_the_save_folder_should_be(tmp_path):
    """Root may write into read-only folders; this no one can."""
    (tmp_path / "save").write_text("")
    require_refused(tmp_path / "save" / "tiny" / "42", r"--save_dir: nothing can be written to .*: Not a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_save_folder(tmp_path):
    (tmp_path / "save").mkdir(mode=0o500)
    require_refused(tmp_path / "save" / "tiny" / "42", r"--save_dir: nothing can be written to .*Permission denied")


def test_a_read_only_file_system_is_said_before_anything_is_built(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(type(tmp_path), "mkdir", refuse)
    monkeypatch.setattr(training, "build_run", None)
    settings = training.Settings(tmp_path, tmp_path / "save")
    with pytest.raises(ConfigError, match=r"--save_dir: nothing can be written to .*Read-only file system"):
        training.train_one({}, "tiny.py", settings, None, training.Resuming(), None)


def hold(folder, ready, end):
    with occupied(folder):
        ready.set()
        end.wait(60)


def test_the_second_run_in_a_folder_is_refused_until_the_first_ends(tmp_path):
    folder = tmp_path / "tiny" / "42"
    context = multiprocessing.get_context("fork")
    for ends_by in ("itself", "kill"):
        ready, end = context.Event(), context.Event()
        process = context.Process(target=hold, args=(folder, ready, end))
        process.start()
        assert ready.wait(60)
        require_refused(folder, rf"42 is in use by another run \(process {process.pid} on .*--save_dir")
        with occupied(tmp_path / "tiny" / "43"):  # another seed is another run
            pass
        process.kill() if ends_by == "kill" else end.set()
        process.join()
        with occupied(folder):
            pass


def test_processes_forked_from_a_run_do_not_hold_its_folder(tmp_path):
    """Data workers outlive a killed run by some seconds; it must start again at once all the same."""
    context = multiprocessing.get_context("fork")
    ready, end = context.Event(), context.Event()

    def run():
        with occupied(tmp_path / "42"):
            worker = os.fork()
            if not worker:
                ready.set()
                end.wait(60)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)

    process = context.Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and ready.wait(60)
    try:
        with occupied(tmp_path / "42"):
            pass
    finally:
        end.set()


@pytest.mark.slow
def test_what_a_user_sees_who_starts_a_run_twice(scenes, tmp_path):
    first = start(scenes, tmp_path, "total_steps=100000", "eval_every=100000")
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "tiny" / "42" / "last").exists():
            assert first.poll() is None and time.monotonic() < deadline, first.communicate()
            time.sleep(0.1)
        second = start(scenes, tmp_path, "total_steps=100000", "eval_every=100000")
        _, err = second.communicate(timeout=120)
        assert second.returncode == 2 and "is in use by another run (process" in err and "Traceback" not in err
    finally:
        first.terminate()
        first.communicate(timeout=120)
    assert first.returncode == 3


# ---------------------------------------------------------------------------------------------------- clocks and leaks


def test_a_clock_that_goes_backwards_changes_nothing(make_run, tmp_path, monkeypatch):  # noqa: F811
    """Only TensorBoard's events carry the time of day. For the clock that times saving, see `learn/test_save.py`."""

    def trained(name):
        train(make_run(name, callbacks=[Log(every=2), Save("error", higher=False, every_minutes=1.0)]))
        return [(tmp_path / name / file).read_bytes() for file in files]

    files = ("log.jsonl", "losses.csv", "last/model.safetensors", "best/model.safetensors")
    whole, now = trained("whole"), [2e9]

    def earlier():
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", earlier)
    assert trained("run") == whole
    assert now[0] < 2e9  # somebody asked


def used():
    """Return how many files and how many pieces of memory this process has open and mapped."""
    with open("/proc/self/maps") as maps:
        return len(os.listdir("/proc/self/fd")), sum(1 for line in maps if ".lmdb" in line)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="counts by /proc")
def test_a_thousand_times_open_and_closed_leaves_nothing_open(tmp_path):
    pairs = dict([header_value(Header("toy", 1, 0, {}, 1)), (b"00000000", seal(msgpack.packb({"id": "x"})))])
    raw(tmp_path / "whole.lmdb", pairs)
    file = tmp_path / "a.lmdb"
    environment._close_all()  # of other tests
    before = used()
    for cycle in range(1000):
        if cycle % 2:  # a file that is replaced while it is open: the old one is let go
            shutil.copy(tmp_path / "whole.lmdb", tmp_path / "new.lmdb")
            os.replace(tmp_path / "new.lmdb", file)
        else:
            environment._close_all()
            shutil.copy(tmp_path / "whole.lmdb", file)
        assert Reader(file).read(0) == {"id": "x"}
        if cycle == 10:
            opened = used()
            assert opened[1] > before[1]
    assert used() == opened
    environment._close_all()
    assert used() == before
