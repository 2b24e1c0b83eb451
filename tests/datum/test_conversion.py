"""Conversions end whole or not at all: killed, failing, concurrent and repeated runs."""

import errno
import functools
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time

import filelock
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from object_centric_bench.datum import conversion, writer
from object_centric_bench.datum.conversion import Job, run
from object_centric_bench.datum.lmdb import Reader
from object_centric_bench.datum.record import DataError, pack
from tests.conftest import REPOSITORY

COUNT = 200  # samples; three commits and a rest


def read(file):
    """The sample function of these tests: an item is a file with a number in it."""
    text = file.read_text()
    if not text.isdigit():
        raise DataError(f"{file} holds no number; download it again")
    rng = np.random.default_rng(int(text))
    segment = rng.integers(0, 4, (30, 30), dtype=np.uint8)
    return pack({"image": rng.bytes(2000), "segment": segment, "frames": [rng.bytes(9) for _ in range(2)]})


def slow(file):
    time.sleep(0.01)
    return read(file)


def files_of(file):
    return [file]


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(COUNT):
        (folder / f"{number:03d}").write_text(str(number))
    return folder


def job(source, sample=read, **options):
    options = {"attributes": {"source": "toy", "options": [1, None]}} | options
    return Job(sorted(source.iterdir()), sample, files_of, **options)


def convert(source, folder, splits=("train",), sample=read, options=None, **arguments):
    jobs = {split: functools.partial(job, source, sample, **(options or {})) for split in splits}
    return run("toy", folder, jobs, **arguments)


@pytest.fixture
def whole(source, tmp_path):
    """The file of an undisturbed conversion."""
    convert(source, tmp_path / "whole")
    return (tmp_path / "whole" / "train.lmdb").read_bytes()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------------------------------------- whole


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("chunk", [1, 8])
def test_same_bytes_for_any_number_of_workers(source, whole, tmp_path, workers, chunk):
    convert(source, tmp_path / "out", workers=workers, options={"chunk": chunk})
    assert (tmp_path / "out" / "train.lmdb").read_bytes() == whole
    assert names(tmp_path / "out") == ["train.lmdb"]


def test_samples_in_the_order_of_the_items(source, tmp_path):
    convert(source, tmp_path, workers=2, options={"chunk": 3})
    reader = Reader(tmp_path / "train.lmdb", "toy")
    assert len(reader) == COUNT and reader.header.num_values == 3 * COUNT and reader.header.max_segment == 3
    assert reader.header.attributes == {"source": "toy", "options": [1, None]}
    for index in (0, 63, 64, 199):
        rng = np.random.default_rng(index)
        np.testing.assert_array_equal(reader.read(index)["segment"], rng.integers(0, 4, (30, 30), dtype=np.uint8))
        assert reader.read(index)["image"] == rng.bytes(2000)


def test_other_counts_than_the_official_ones_are_said(source, tmp_path, caplog):
    convert(source, tmp_path / "a", options={"official": COUNT})
    assert not caplog.messages
    convert(source, tmp_path / "b", options={"official": 5000})
    assert "200 samples, the official download 5000" in caplog.messages[0]


# ------------------------------------------------------------------------------------------------------- interrupted


class Stop(Exception):
    pass


def stop_at(monkeypatch, step):
    """Let the write with that number fail, before it begins or after it is done, as a kill would."""
    count = iter(range(1000))
    original = writer.write_values

    def write_values(file, pairs):
        number = next(count)
        if 2 * number == step:
            raise Stop
        original(file, pairs)
        if 2 * number + 1 == step:
            raise Stop

    monkeypatch.setattr(writer, "write_values", write_values)


@pytest.mark.parametrize("step", range(10))
def test_stopped_at_any_write_and_run_again(source, whole, tmp_path, monkeypatch, caplog, step):
    """Four commits of samples and one of the header, each stopped before and after it."""
    out = tmp_path / "out"
    stop_at(monkeypatch, step)
    with pytest.raises(Stop):
        convert(source, out)
    left = [name for name in names(out) if not name.endswith(".finished")]
    assert left in ([".train.lmdb.progress"], [".train.lmdb.partial", ".train.lmdb.progress"])
    monkeypatch.undo()
    calls = []
    original = writer._attempt
    monkeypatch.setattr(writer, "_attempt", lambda *a: calls.append(a) or original(*a))
    convert(source, out)
    assert (out / "train.lmdb").read_bytes() == whole and names(out) == ["train.lmdb"]
    assert len(calls) == max(0, COUNT - 64 * ((step + 1) // 2))
    assert any("going on after" in text for text in caplog.messages) == (step > 0)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 9), st.integers(0, 9))
def test_stopped_twice(tmp_path_factory, first, second):
    folder = tmp_path_factory.mktemp("twice")
    (folder / "raw").mkdir()
    for number in range(COUNT):
        (folder / "raw" / f"{number:03d}").write_text(str(number))
    convert(folder / "raw", folder / "whole")
    for step in (first, second):
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, step)
            try:
                convert(folder / "raw", folder / "out")
            except Stop:
                continue
        break
    if not (folder / "out" / "train.lmdb").exists():
        convert(folder / "raw", folder / "out")
    assert (folder / "out" / "train.lmdb").read_bytes() == (folder / "whole" / "train.lmdb").read_bytes()


def killed_conversion(source, folder, workers):
    convert(source, folder, sample=slow, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_without_warning(source, tmp_path, workers):
    """kill -9 at several moments; workers end by themselves, and the rest is done by the next run."""
    convert(source, tmp_path / "whole", sample=slow, workers=2)
    out = tmp_path / "out"
    context = multiprocessing.get_context("spawn")
    for delay in (0.05, 0.6, 0.9):
        process = context.Process(target=killed_conversion, args=(source, out, workers))
        process.start()
        deadline = time.monotonic() + 60
        while not (out / ".train.lmdb.lock").exists() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if (out / "train.lmdb").exists():
            break
        with pytest.raises(DataError):
            Reader(out / "train.lmdb")
    if not (out / "train.lmdb").exists():
        convert(source, out, sample=slow, workers=2)
    assert (out / "train.lmdb").read_bytes() == (tmp_path / "whole" / "train.lmdb").read_bytes()
    assert names(out) == ["train.lmdb"]


PARENT = """
import os, time
from object_centric_bench.datum.parallel import ordered_map

def number(_):
    return os.getpid()

results = ordered_map(number, [0], 2)
print(next(results), flush=True)
time.sleep(60)
"""


def test_workers_end_with_their_parent(tmp_path):
    """A worker outlives a killed parent by moments only."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    worker = int(process.stdout.readline())
    os.kill(worker, 0)  # it lives: no error
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            status = psutil.Process(worker).status()
        except psutil.NoSuchProcess:
            return
        if status == psutil.STATUS_ZOMBIE:  # dead, but nobody has collected it
            return
        time.sleep(0.05)
    pytest.fail("the worker lives on")


def test_changed_source_starts_again(source, tmp_path, monkeypatch, caplog):
    out = tmp_path / "out"
    stop_at(monkeypatch, 6)
    with pytest.raises(Stop):
        convert(source, out)
    monkeypatch.undo()
    (source / "007").write_text("1007")
    convert(source, out)
    assert any("source has changed" in text for text in caplog.messages)
    convert(source, tmp_path / "fresh")
    assert (out / "train.lmdb").read_bytes() == (tmp_path / "fresh" / "train.lmdb").read_bytes()


def test_other_options_start_again(source, tmp_path, monkeypatch, caplog):
    out = tmp_path / "out"
    stop_at(monkeypatch, 6)
    with pytest.raises(Stop):
        convert(source, out)
    monkeypatch.undo()
    convert(source, out, sample=slow)
    assert any("source has changed" in text for text in caplog.messages)


@pytest.mark.parametrize("name", [".train.lmdb.partial", ".train.lmdb.progress"])
@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_damaged_leftovers_are_not_used(source, whole, tmp_path, monkeypatch, name, share):
    out = tmp_path / "out"
    stop_at(monkeypatch, 5)
    with pytest.raises(Stop):
        convert(source, out)
    monkeypatch.undo()
    os.truncate(out / name, int((out / name).stat().st_size * share))
    convert(source, out)
    assert (out / "train.lmdb").read_bytes() == whole


def test_force_starts_from_nothing(source, whole, tmp_path, monkeypatch, caplog):
    out = tmp_path / "out"
    convert(source, out)
    stop_at(monkeypatch, 5)
    with pytest.raises(Stop):
        convert(source, out, force=True)
    assert (out / "train.lmdb").read_bytes() == whole  # the old one is still whole
    monkeypatch.undo()
    convert(source, out, force=True)
    assert not any("going on" in text for text in caplog.messages)
    assert (out / "train.lmdb").read_bytes() == whole


# ----------------------------------------------------------------------------------------------------- existing files


def test_a_finished_split_of_an_interrupted_run_is_kept(source, tmp_path, monkeypatch, caplog):
    out = tmp_path / "out"
    stop_at(monkeypatch, 12)  # in the second file
    with pytest.raises(Stop):
        convert(source, out, splits=("train", "val"))
    monkeypatch.undo()
    status = (out / "train.lmdb").stat()
    convert(source, out, splits=("train", "val"))
    assert (out / "train.lmdb").stat().st_mtime_ns == status.st_mtime_ns
    assert any("train.lmdb was finished before and is kept" in text for text in caplog.messages)
    assert (out / "train.lmdb").read_bytes() == (out / "val.lmdb").read_bytes()
    with pytest.raises(DataError, match=r"train.lmdb exists.*--force"):
        convert(source, out, splits=("train", "val"))


def test_a_finished_split_is_not_kept_when_its_source_changed(source, tmp_path, monkeypatch):
    stop_at(monkeypatch, 12)
    with pytest.raises(Stop):
        convert(source, tmp_path / "out", splits=("train", "val"))
    monkeypatch.undo()
    (source / "003").write_text("1003")
    with pytest.raises(DataError, match=r"train.lmdb exists"):
        convert(source, tmp_path / "out", splits=("train", "val"))


def test_a_split_converted_by_another_command_is_not_kept(source, tmp_path):
    convert(source, tmp_path / "out")
    with pytest.raises(DataError, match=r"train.lmdb exists"):
        convert(source, tmp_path / "out", splits=("train", "val"))


def test_a_bad_item_that_can_be_read_after_all(source, whole, tmp_path, monkeypatch, caplog):
    """Its file is the same, but reading failed: the interrupted run is not gone on with, or it would be lost."""
    out = tmp_path / "out"

    def flaky(file):
        raise DataError(f"{file} could not be read just now")

    original = writer._attempt
    with monkeypatch.context() as patch:
        patch.setattr(
            writer, "_attempt", lambda sample, files, program, item: original(
                flaky if item.name == "003" else sample, files, program, item
            )
        )  # fmt: skip
        stop_at(patch, 4)
        with pytest.raises(Stop):
            convert(source, out, skip_bad=True)
    assert convert(source, out, skip_bad=True) == []
    assert "starting again" in caplog.text
    assert (out / "train.lmdb").read_bytes() == whole


@pytest.mark.parametrize("options", [{"workers": -1}])
def test_numbers_that_make_no_sense(source, tmp_path, options):
    with pytest.raises(DataError, match="at least 0, got -1"):
        convert(source, tmp_path / "out", **options)
    with pytest.raises(DataError, match="--limit is at least 1, got 0"):
        conversion.check(("train",), ("train", "val"), 0)
    with pytest.raises(DataError, match="there is no split 'test'; known are train, val"):
        conversion.check(("test",), ("train", "val"), None)


def test_a_file_of_another_job_is_not_kept(source, tmp_path):
    convert(source, tmp_path / "out", options={"attributes": {"source": "other"}})
    with pytest.raises(DataError, match=r"train.lmdb exists"):
        convert(source, tmp_path / "out", splits=("train", "val"))
    assert names(tmp_path / "out") == ["train.lmdb"]


def test_an_existing_target_stops_before_the_source_is_read(tmp_path, source):
    convert(source, tmp_path / "out")
    with pytest.raises(DataError, match="exists"):
        run("toy", tmp_path / "out", {"train": lambda: pytest.fail("was read")})


def test_two_conversions_to_the_same_destination(source, tmp_path):
    (tmp_path / "out").mkdir()
    lock = filelock.FileLock(tmp_path / "out" / ".train.lmdb.lock")
    with lock, pytest.raises(DataError, match=r"another process is writing .*train.lmdb"):
        convert(source, tmp_path / "out")
    convert(source, tmp_path / "out")
    assert len(Reader(tmp_path / "out" / "train.lmdb")) == COUNT


def test_two_processes_at_once(source, whole, tmp_path):
    """One of them writes, the other is told so."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=killed_conversion, args=(source, tmp_path / "out", 0)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(process.exitcode for process in processes) == [0, 1]
    Reader(tmp_path / "out" / "train.lmdb").verify()


# --------------------------------------------------------------------------------------------------------- bad input


def test_a_bad_sample_stops_and_is_named_and_the_next_run_goes_on(source, whole, tmp_path, caplog):
    out = tmp_path / "out"
    (source / "150").write_text("no number")
    with pytest.raises(DataError, match=r"150 holds no number.*run the same command again.*--skip_bad"):
        convert(source, out, workers=2)
    assert not (out / "train.lmdb").exists()
    (source / "150").write_text("150")
    convert(source, out)
    assert any("going on after 128 samples" in text for text in caplog.messages)
    assert (out / "train.lmdb").read_bytes() == whole


@pytest.mark.parametrize("step", range(8))
def test_bad_samples_are_left_out_and_listed(source, tmp_path, monkeypatch, caplog, step):
    """Also by an interrupted run, wherever it stopped: bad ones lie at the borders of commits."""
    for name in ("000", "003", "064", "065", "066", "131", "199"):
        (source / name).write_text("no number")
    (source / "004").unlink()
    items = [source / f"{number:03d}" for number in range(COUNT)]
    jobs = {"train": lambda: Job(items, read, files_of, bad=("005 is missing",))}
    messages = run("toy", tmp_path / "whole", jobs, skip_bad=True, workers=2)
    assert len(messages) == 9 and messages[0] == "005 is missing"
    assert "004 cannot be read: No such file" in messages[3]
    reader = Reader(tmp_path / "whole" / "train.lmdb")
    assert len(reader) == COUNT - 8 and reader.header.attributes["left_out"] == messages
    assert "left out 9 bad samples or files" in caplog.text
    stop_at(monkeypatch, step)
    with pytest.raises(Stop):
        run("toy", tmp_path / "out", jobs, skip_bad=True)
    monkeypatch.undo()
    assert run("toy", tmp_path / "out", jobs, skip_bad=True) == messages
    assert (tmp_path / "out/train.lmdb").read_bytes() == (tmp_path / "whole/train.lmdb").read_bytes()


def test_nothing_good(source, tmp_path):
    for file in source.iterdir():
        file.write_text("no number")
    with pytest.raises(DataError, match=r"would hold no sample, all are bad:\n.*000 holds no number"):
        convert(source, tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out" / "train.lmdb").exists()


def limited(source, folder, limit):
    """Convert where no file may grow beyond `limit` bytes, as on a full disk; exit 3 after a clear error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        convert(source, folder)
    except DataError as error:
        text = str(error)
        sys.exit(3 if str(folder) in text and "cannot write" in text and "is the disk full" in text else 4)


@pytest.mark.parametrize("limit", [10_000, 100_000, 400_000])
def test_full_disk(source, whole, tmp_path, limit):
    out = tmp_path / "out"
    process = multiprocessing.get_context("spawn").Process(target=limited, args=(source, out, limit))
    process.start()
    process.join()
    assert process.exitcode == 3
    assert not (out / "train.lmdb").exists()
    convert(source, out)
    assert (out / "train.lmdb").read_bytes() == whole


def test_folders_are_made_or_refused(source, tmp_path):
    convert(source, tmp_path / "new" / "folder")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        convert(source, tmp_path / "file")
    (tmp_path / "taken" / "train.lmdb").mkdir(parents=True)
    with pytest.raises(DataError, match="is a folder"):
        convert(source, tmp_path / "taken")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o500)
    with pytest.raises(DataError, match="cannot write"):
        convert(source, out)


def test_a_refused_write_is_a_data_error(source, tmp_path, monkeypatch):
    """What a read-only folder gives, also where the tests run as root."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(conversion.filelock.FileLock, "acquire", refuse)
    with pytest.raises(DataError, match=r"cannot write .*train.lmdb.*Read-only file system"):
        convert(source, tmp_path / "out")


def test_identity_depends_on_item_files_and_program(source):
    items = sorted(source.iterdir())
    seen = {writer._identity(item, files_of, b"program") for item in items}
    assert len(seen) == COUNT
    before = writer._identity(items[0], files_of, b"program")
    assert before == writer._identity(items[0], files_of, b"program")
    assert before != writer._identity(items[0], files_of, b"other")
    items[0].write_text("00")
    assert before != writer._identity(items[0], files_of, b"program")
