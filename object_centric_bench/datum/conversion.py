"""What all converters share: write files whole or not at all, go on after an interruption, leave out what is bad.

While `train.lmdb` is being made it is `.train.lmdb.partial`, and `.train.lmdb.progress` has a line per source item:
what it was made from, and whether it was any good. The next run takes over what was made from the same sources, so that
a conversion killed at any time and run again gives the same bytes as one that was left alone.
"""

import contextlib
import functools
import hashlib
import itertools
import logging
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import filelock
from tqdm import tqdm

from .lmdb import Header, Reader, count_values, header_value, sample_values, write_values
from .parallel import ordered_map
from .record import DataError, Packed

log = logging.getLogger(__name__)

COMMIT_SAMPLES, COMMIT_BYTES = 64, 1 << 25  # whichever comes first; bounds the memory and what a kill can cost
PROGRESS = struct.Struct("<16s?II")  # identity of the item, whether it is good, its largest segment id, its records
SHOWN = 5  # bad items named in a message


def _no_files(item: Any) -> tuple[Path, ...]:
    return ()


@dataclass(frozen=True)
class Job:
    """What one file is made from.

    Attributes:
        items: in the order of the samples; each can be sent to a process, and its `repr` tells all about it.
        sample: a function of a module (or a `functools.partial` of one) that makes a sample of an item; it raises
            `DataError`, naming the file, if the source is bad.
        files: the source files of an item; when one of them changes, so does the sample.
        attributes: kept in the file: the source, the split, all options that decide the content.
        official: number of samples of the official download, None if there is none or only a part is wanted.
        bad: messages about items that were left out when listing the source.
        chunk: items per message between processes: 1 if their samples are large.
    """

    items: Sequence[Any]
    sample: Callable[[Any], Packed]
    files: Callable[[Any], Iterable[Path]] = _no_files
    attributes: dict[str, Any] = field(default_factory=dict)
    official: int | None = None
    bad: tuple[str, ...] = ()
    chunk: int = 8


class _Outcome(NamedTuple):
    identity: bytes
    sample: Packed | None
    message: str = ""


def run(
    dataset: str,
    dst_dir: str | Path,
    jobs: Mapping[str, Callable[[], Job]],
    *,
    workers: int = 0,
    force: bool = False,
    skip_bad: bool = False,
) -> list[str]:
    """Write `dst_dir/<split>.lmdb` for each split; a file has its name only once it is whole.

    If only some of the files exist, made by this very job, they are kept: the run before was interrupted.

    Args:
        dataset: name that readers ask for.
        dst_dir: made if missing.
        jobs: split -> a function that lists and checks the source; all are called before anything is written.
        workers: processes; 0 converts here. The files are the same.
        force: start from nothing, and replace existing files (only when the new one is whole).
        skip_bad: leave out bad items and go on.

    Returns:
        A message per item left out.

    Raises:
        DataError: a file exists; a source is bad; nothing can be written; another process writes the same file.
    """
    files = {split: Path(dst_dir) / f"{split}.lmdb" for split in jobs}
    for file in files.values():
        if file.is_dir():
            raise DataError(f"{file} is a folder; a file is to be written there")
    existing = [file for file in files.values() if file.exists()]
    if len(existing) == len(files) and not force:
        refuse_existing(existing[0], force)
    listed = {split: job() for split, job in jobs.items()}
    if not force:
        for split, file in files.items():
            if file.exists() and not _is_of(file, dataset, listed[split]):
                refuse_existing(file, force)
    messages: list[str] = []
    for split, file in files.items():
        if file.exists() and not force:
            log.warning("%s was finished before and is kept", file)
            continue
        messages += write(file, dataset, listed[split], workers=workers, force=force, skip_bad=skip_bad)
    return messages


def refuse_existing(file: Path, force: bool) -> None:
    """Raise `DataError` if the target exists and may not be replaced."""
    if file.exists() and not force:
        raise DataError(f"{file} exists; give another --dst_dir, or --force to replace it")


def _is_of(file: Path, dataset: str, job: Job) -> bool:
    """Return whether a finished file was made by such a job."""
    header = Reader(file, dataset).header
    left_out = len(header.attributes.get("left_out", [])) - len(job.bad)
    return _same(header.attributes, job.attributes) and header.num_samples == len(job.items) - left_out


def _same(stored: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return {key: value for key, value in stored.items() if key != "left_out"} == wanted


def write(
    file: str | Path, dataset: str, job: Job, *, workers: int = 0, force: bool = False, skip_bad: bool = False
) -> list[str]:
    """Write one file; arguments, result and errors as for `run`."""
    file = Path(file)
    refuse_existing(file, force)
    if job.official is not None and len(job.items) + len(job.bad) != job.official:
        count = len(job.items) + len(job.bad)
        log.warning("%s: the source has %d samples, the official download %d", file, count, job.official)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _alone(file):
            messages = _Writer(file, dataset, job, workers, force, skip_bad).write()
    except OSError as error:
        raise DataError(f"cannot write {file}: {error}") from error
    if messages:
        count = len(job.items) + len(job.bad)
        log.warning("%s: left out %d bad samples of %d; its header lists them", file, len(messages), count)
    return messages


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Keep other processes from writing the same file."""
    lock = filelock.FileLock(file.with_name(f".{file.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise DataError(f"another process is writing {file}: wait for it, or give another --dst_dir") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


class _Writer:
    """Writes one file, see `write`."""

    def __init__(self, file: Path, dataset: str, job: Job, workers: int, force: bool, skip_bad: bool):
        self.file, self.dataset, self.job = file, dataset, job
        self.workers, self.force, self.skip_bad = workers, force, skip_bad
        self.partial = file.with_name(f".{file.name}.partial")
        self.progress = file.with_name(f".{file.name}.progress")
        self.program = _program(job.sample)
        self.attempt = functools.partial(_attempt, job.sample, job.files, self.program)
        self.messages: list[str] = []
        self.lines: list[bytes] = []  # of items since the last commit
        self.pairs: list[tuple[bytes, bytes]] = []  # of samples since then
        self.pending = self.pending_bytes = 0  # samples and bytes of `pairs`
        self.num_samples = self.num_values = self.max_segment = 0

    def write(self) -> list[str]:
        for message in self.job.bad:
            self.leave_out(message)
        done, finished = (0, False) if self.force else self.earlier()
        if not done:
            for path in (self.partial, self.progress):
                path.unlink(missing_ok=True)
        bar = tqdm(desc=self.file.name, total=len(self.job.items), initial=done, unit="sample", mininterval=0.5)
        with bar, contextlib.closing(self.outcomes(done)) as outcomes:
            for outcome in outcomes:
                self.add(outcome)
                bar.update()
        if not finished:
            self.finish()
        refuse_existing(self.file, self.force)  # it may have appeared in the meantime
        os.replace(self.partial, self.file)
        self.progress.unlink(missing_ok=True)
        _sync(self.file.parent)
        return self.messages

    def outcomes(self, done: int) -> Iterator[_Outcome]:
        items = itertools.islice(self.job.items, done, None)
        return ordered_map(self.attempt, items, self.workers, self.job.chunk)

    def add(self, outcome: _Outcome) -> None:
        self.check(outcome)
        size = segment = 0
        if outcome.sample is not None:
            pairs = sample_values(self.num_samples, outcome.sample)
            size, segment = len(pairs), outcome.sample.max_segment
            self.pairs += pairs
            self.pending += 1
            self.pending_bytes += sum(len(value) for _, value in pairs)
        self.lines.append(PROGRESS.pack(outcome.identity, outcome.sample is not None, segment, size))
        self.count(outcome.sample is not None, segment, size)
        if self.pending == COMMIT_SAMPLES or self.pending_bytes > COMMIT_BYTES:
            self.commit()

    def check(self, outcome: _Outcome) -> None:
        if outcome.sample is not None:
            return
        if not self.skip_bad:
            raise DataError(
                f"{outcome.message}. Set it right and run the same command again, it goes on where it stopped; "
                "or leave bad samples out with --skip_bad"
            )
        self.leave_out(outcome.message)

    def leave_out(self, message: str) -> None:
        tqdm.write(f"left out: {message}", file=sys.stderr)
        self.messages.append(message)

    def count(self, good: bool, segment: int, size: int) -> None:
        self.num_samples += good
        self.num_values += size
        self.max_segment = max(self.max_segment, segment)

    def commit(self) -> None:
        with self.progress.open("ab") as stream:  # first: lines beyond the last whole commit are cut off again
            stream.write(b"".join(self.lines))
        if self.pairs:
            write_values(self.partial, self.pairs)
        self.lines, self.pairs = [], []
        self.pending = self.pending_bytes = 0

    def finish(self) -> None:
        self.commit()
        if not self.num_samples:
            shown = "\n  ".join(self.messages[:SHOWN])
            raise DataError(f"{self.file} would hold no sample" + (f", all are bad:\n  {shown}" if shown else ""))
        attributes = self.job.attributes | ({"left_out": self.messages} if self.messages else {})
        header = Header(self.dataset, self.num_samples, self.max_segment, attributes, self.num_values)
        write_values(self.partial, [header_value(header)])

    def earlier(self) -> tuple[int, bool]:
        """Take over what an interrupted run made of the same sources.

        Returns:
            How many items that is, and whether the file is whole but for its name.
        """
        if not self.partial.exists() or not self.progress.exists():
            return 0, False
        try:
            there, finished = count_values(self.partial)
        except DataError:  # killed before the first commit
            return 0, False
        lines = self.progress.read_bytes()
        lines = list(PROGRESS.iter_unpack(lines[: len(lines) - len(lines) % PROGRESS.size]))
        sizes = list(itertools.accumulate((size for *_, size in lines), initial=0))
        if there - finished not in sizes:
            return 0, False
        done = len(lines) if finished else sizes.index(there - finished)
        if done > len(self.job.items) or (finished and done != len(self.job.items)):
            return 0, False
        for item, (identity, good, segment, size) in zip(self.job.items[:done], lines, strict=False):
            if identity != _identity(item, self.job.files, self.program):
                log.warning("%s: the source has changed since the interrupted conversion; starting again", self.file)
                self.messages = list(self.job.bad)
                self.num_samples = self.num_values = self.max_segment = 0
                return 0, False
            if not good:
                self.check(self.attempt(item))
            self.count(good, segment, size)
        with self.progress.open("r+b") as stream:
            stream.truncate(done * PROGRESS.size)
        log.warning("%s: going on after %d samples, converted before the interruption", self.file, done)
        return done, finished


def _attempt(
    sample: Callable[[Any], Packed], files: Callable[[Any], Iterable[Path]], program: bytes, item: Any
) -> _Outcome:
    identity = _identity(item, files, program)  # before reading: a file that changes afterwards is read again next time
    try:
        return _Outcome(identity, sample(item))
    except DataError as error:
        return _Outcome(identity, None, str(error))
    except OSError as error:
        return _Outcome(identity, None, f"{error.filename} cannot be read: {error.strerror}")


def _identity(item: Any, files: Callable[[Any], Iterable[Path]], program: bytes) -> bytes:
    """Return 16 bytes that change with an item, its source files, and the program that converts it."""
    digest = hashlib.blake2b(repr(item).encode(), digest_size=16, key=program)
    for file in files(item):
        try:
            status = file.stat()
            digest.update(struct.pack("<qq", status.st_size, status.st_mtime_ns))
        except OSError as error:
            digest.update(repr(error.errno).encode())
    return digest.digest()


def _program(sample: Callable[[Any], Packed]) -> bytes:
    """Return a digest of the code and libraries that make samples, and of the options bound to the function."""
    function = sample.func if isinstance(sample, functools.partial) else sample
    options = repr((sample.args, sample.keywords)) if isinstance(sample, functools.partial) else ""
    libraries = [f"{name} {version(name)}" for name in ("numpy", "msgpack", "zstandard", "lmdb")]
    digest = hashlib.blake2b("\n".join([function.__qualname__, options, *libraries]).encode(), digest_size=32)
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.digest()


def _sync(folder: Path) -> None:
    """Make the renaming in a folder survive a crash."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
