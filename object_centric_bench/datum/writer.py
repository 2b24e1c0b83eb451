"""Write one file of a conversion: in commits that survive a crash, going on where an interrupted run stopped."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import logging
import os
import struct
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import cv2
from tqdm import tqdm

from ..console import bar
from .lmdb import PIXELS_VERSION, VERSION, Header, count_values, header_value, sample_values, write_values
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
        sample: a function of a module (or a `functools.partial` of one) that makes a sample of an item, with decoded
            pictures if `pixels=True` follows; it raises `DataError`, naming the file, if the source is bad.
        files: the source files of an item; when one of them changes, so does the sample.
        attributes: kept in the file: the source, the split, all options that decide the content.
        official: number of samples of the official download, None if there is none or only a part is wanted.
        bad: messages about items that were left out when listing the source.
        chunk: items per message between processes: 1 if their samples are large.
        pixels: whether the samples hold decoded pictures, `record.Pixels`; see `decoded`.
    """

    items: Sequence[Any]
    sample: Callable[..., Packed]
    files: Callable[[Any], Iterable[Path]] = _no_files
    attributes: dict[str, Any] = field(default_factory=dict)
    official: int | None = None
    bad: tuple[str, ...] = ()
    chunk: int = 8
    pixels: bool = False

    def decoded(self) -> "Job":
        """Return the job that stores pictures decoded, if this one's `sample` can do that."""
        sample = functools.partial(self.sample, pixels=True)
        return dataclasses.replace(self, sample=sample, attributes=self.attributes | {"pixels": True}, pixels=True)


class _Outcome(NamedTuple):
    identity: bytes
    sample: Packed | None
    message: str = ""


def fingerprint(job: Job) -> bytes:
    """Return bytes that change with a job's items, their source files, the program and the options."""
    program = _program(job.sample)
    digest = hashlib.blake2b(repr((job.attributes, job.bad)).encode(), key=program)
    for item in job.items:
        digest.update(_identity(item, job.files, program))
    return digest.digest()


def refuse_existing(file: Path, force: bool) -> None:
    """Raise `DataError` if the target exists and may not be replaced."""
    if file.exists() and not force:
        raise DataError(f"{file} exists; give another --dst_dir, or --force to replace it")


class Writer:
    """Writes one file, see `conversion.write`."""

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
        """Write the file; return the messages about what was left out."""
        for message in self.job.bad:
            self.leave_out(message)
        done, finished = (0, False) if self.force else self.earlier()
        if not done:
            for path in (self.partial, self.progress):
                path.unlink(missing_ok=True)
        shown = bar(desc=self.file.name, total=len(self.job.items), initial=done, unit="sample", mininterval=0.5)
        with shown, contextlib.closing(self.outcomes(done)) as outcomes:
            for outcome in outcomes:
                self.add(outcome)
                shown.update()
        if not finished:
            self.finish()
        refuse_existing(self.file, self.force)  # it may have appeared in the meantime
        os.replace(self.partial, self.file)
        self.progress.unlink(missing_ok=True)
        _sync(self.file.parent)
        return self.messages

    def outcomes(self, done: int) -> Generator[_Outcome, None, None]:
        """Yield what becomes of each item after the first `done`."""
        items = itertools.islice(self.job.items, done, None)
        return ordered_map(self.attempt, items, self.workers, self.job.chunk)

    def add(self, outcome: _Outcome) -> None:
        """Take an outcome, and commit when there is enough."""
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
        """Leave a bad item out if that is wanted, else raise `DataError`."""
        if outcome.sample is not None:
            return
        if not self.skip_bad:
            raise DataError(
                f"{outcome.message}. Set it right and run the same command again, it goes on where it stopped; "
                "or leave bad samples out with --skip_bad"
            )
        self.leave_out(outcome.message)

    def leave_out(self, message: str) -> None:
        """Show and keep a message about a bad item."""
        tqdm.write(f"left out: {message}", file=sys.stderr)
        self.messages.append(message)

    def count(self, good: bool, segment: int, size: int) -> None:
        """Count an item's sample, if it is good, with its largest segment id and number of records."""
        self.num_samples += good
        self.num_values += size
        self.max_segment = max(self.max_segment, segment)

    def commit(self) -> None:
        """Put what was added on the disk."""
        with self.progress.open("ab") as stream:  # first: lines beyond the last whole commit are cut off again
            stream.write(b"".join(self.lines))
        if self.pairs:
            write_values(self.partial, self.pairs)
        self.lines, self.pairs = [], []
        self.pending = self.pending_bytes = 0

    def finish(self) -> None:
        """Commit the rest, and the header that declares the file whole."""
        self.commit()
        if not self.num_samples:
            shown = "\n  ".join(self.messages[:SHOWN])
            raise DataError(f"{self.file} would hold no sample" + (f", all are bad:\n  {shown}" if shown else ""))
        attributes = self.job.attributes | ({"left_out": self.messages} if self.messages else {})
        version = PIXELS_VERSION if self.job.pixels else VERSION
        header = Header(self.dataset, self.num_samples, self.max_segment, attributes, self.num_values, version=version)
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
        stored = self.progress.read_bytes()
        lines = list(PROGRESS.iter_unpack(stored[: len(stored) - len(stored) % PROGRESS.size]))
        sizes = list(itertools.accumulate((size for *_, size in lines), initial=0))
        if there - finished not in sizes:
            return 0, False
        done = len(lines) if finished else sizes.index(there - finished)
        if done > len(self.job.items) or (finished and done != len(self.job.items)):
            return 0, False
        for item, (identity, good, segment, size) in zip(self.job.items[:done], lines, strict=False):
            if identity != _identity(item, self.job.files, self.program):
                return self.start_again()
            if not good:
                outcome = self.attempt(item)
                if outcome.sample is not None:  # it could not be read then, and can now
                    return self.start_again()
                self.check(outcome)
            self.count(good, segment, size)
        with self.progress.open("r+b") as stream:
            stream.truncate(done * PROGRESS.size)
        log.warning("%s: going on after %d samples, converted before the interruption", self.file, done)
        return done, finished

    def start_again(self) -> tuple[int, bool]:
        """Forget what `earlier` has taken over."""
        log.warning("%s: the source has changed since the interrupted conversion; starting again", self.file)
        self.messages = list(self.job.bad)
        self.num_samples = self.num_values = self.max_segment = 0
        return 0, False


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
    libraries.append(f"opencv {cv2.__version__}")  # whose package has several names
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
