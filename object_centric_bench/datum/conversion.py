"""What all converters share: write files whole or not at all, go on after an interruption, leave out what is bad.

While `train.lmdb` is being made it is `.train.lmdb.partial`, and `.train.lmdb.progress` has a line per source item:
what it was made from, and whether it was any good. The next run takes over what was made from the same sources, so that
a conversion killed at any time and run again gives the same bytes as one that was left alone.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from .record import DataError
from .writer import Job, Writer, fingerprint, refuse_existing

__all__ = ["Job", "alone", "check", "refuse_existing", "run", "write"]

log = logging.getLogger(__name__)


def run(
    dataset: str,
    dst_dir: str | Path,
    jobs: Mapping[Any, Callable[[], Job]],
    *,
    workers: int = 0,
    force: bool = False,
    skip_bad: bool = False,
    pixels: bool = False,
) -> list[str]:
    """Write `dst_dir/<split>.lmdb` for each split; a file has its name only once it is whole.

    If an earlier run of the same jobs was interrupted between two files, the finished one is kept.

    Args:
        dataset: name that readers ask for.
        dst_dir: made if missing.
        jobs: split -> a function that lists and checks the source; all are called before anything is written.
        workers: processes; 0 converts here. The files are the same.
        force: start from nothing, and replace existing files (only when the new one is whole).
        skip_bad: leave out bad items and go on.
        pixels: store pictures decoded.

    Returns:
        A message per item left out.

    Raises:
        DataError: a file exists; a source is bad; nothing can be written; another process writes the same file.
    """
    if workers < 0:
        raise DataError(f"--workers is at least 0, got {workers}")
    files = {split: Path(dst_dir) / f"{split}.lmdb" for split in jobs}
    for file in files.values():
        if file.is_dir():
            raise DataError(f"{file} is a folder; a file is to be written there")
    existing = [file for file in files.values() if file.exists()]
    if len(existing) == len(files) and not force:
        refuse_existing(existing[0], force)
    listed = {split: job().decoded() if pixels else job() for split, job in jobs.items()}
    if not force:
        for split, file in files.items():
            if file.exists() and not _was_finished(file, listed[split]):
                refuse_existing(file, force)
    try:
        messages = _write_all(files, dataset, listed, workers, force, skip_bad)
    except OSError as error:
        raise DataError(f"cannot write to {dst_dir}: {error}") from error
    for file in files.values():
        _mark(file).unlink(missing_ok=True)
    return messages


def _write_all(
    files: dict[str, Path], dataset: str, listed: dict[str, Job], workers: int, force: bool, skip_bad: bool
) -> list[str]:
    messages: list[str] = []
    for split, file in files.items():
        if file.exists() and not force:
            log.warning("%s was finished before and is kept", file)
            continue
        mark = _mark(file)
        if not file.exists():  # before the file: a kill between the two must not make it look like another's
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_bytes(fingerprint(listed[split]))
        messages += write(file, dataset, listed[split], workers=workers, force=force, skip_bad=skip_bad)
        mark.write_bytes(fingerprint(listed[split]))
    return messages


def check(split: Sequence[str], known: Sequence[str], limit: int | None) -> None:
    """Raise `DataError` for an unknown split, or a limit below 1."""
    unknown = [name for name in split if name not in known]
    if unknown:
        raise DataError(f"there is no split {unknown[0]!r}; known are {', '.join(known)}")
    if limit is not None and limit < 1:
        raise DataError(f"--limit is at least 1, got {limit}")


def _mark(file: Path) -> Path:
    """Return the file that says what a finished file was made from, while others of the same run are not finished."""
    return file.with_name(f".{file.name}.finished")


def _was_finished(file: Path, job: Job) -> bool:
    """Return whether an interrupted run finished a file of this very job."""
    mark = _mark(file)
    return mark.exists() and mark.read_bytes() == fingerprint(job)


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
        with alone(file):
            messages = Writer(file, dataset, job, workers, force, skip_bad).write()
    except OSError as error:
        raise DataError(f"cannot write {file}: {error}") from error
    if messages:
        log.warning("%s: left out %d bad samples or files, named above; its header lists them", file, len(messages))
    return messages


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
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
