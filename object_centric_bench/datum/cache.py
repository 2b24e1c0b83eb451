"""Rows that were dear to compute, kept on disk for later passes and runs: memory-mapped, checked, bounded, shared.

An entry is a folder named by its key: `rows.bin`, the numbers alone, and `facts.json`, which says what they are and
holds their CRC-32. It is written under another name and put in place by renaming, so that an entry is whole or not
there; it is checked when it is opened. Processes that want the same entry wait for the one that makes it.
"""

import contextlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import filelock
import torch
from torch import Tensor

ROWS, FACTS = "rows.bin", "facts.json"
BLOCK = 1 << 24  # bytes checked at once
DTYPES = {str(t): t for t in (torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int16, torch.int32)}

log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """What the cache holds under a key.

    Attributes:
        rows: (n ...), mapped from the disk, their axes in the order in which they were laid out in memory.
        order: for each axis of a row as it was given (from 0), its place in `rows`, where it counts from 1.
        about: what the writer was told.
    """

    rows: Tensor
    order: list[int]
    about: dict

    def take(self, index: Tensor) -> Tensor:
        """Return a copy (b ...) of the rows at `index` (b), laid out in memory as they were when given."""
        return self.rows.index_select(0, index).permute(0, *self.order)


class CacheFull(RuntimeError):
    """There is no room for an entry; the text says where, how much is needed, and what to do."""


class Cache:
    """The entries in a folder.

    Args:
        folder: made when the first entry is.
        limit: bytes of all entries together; the least recently used go first.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold an entry, so that only one process makes it; it is free again when a holder dies.

        Raises:
            CacheFull: nothing can be written here.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / f".{key}.lock")
            lock.acquire()
        except OSError as error:
            raise CacheFull(f"nothing can be written to {self.folder}: {error}") from error
        try:
            yield
        finally:
            lock.release()

    def open(self, key: str) -> Entry | None:
        """Return an entry; None if it is missing, or damaged and now removed."""
        folder = self.folder / key
        if not folder.is_dir():
            return None
        try:
            facts = json.loads((folder / FACTS).read_text())
            entry = _map(folder / ROWS, facts)
            os.utime(folder / FACTS)  # says when it was used last
        except (OSError, ValueError, LookupError, ArithmeticError, TypeError, RuntimeError) as error:
            log.warning("%s is damaged (%s) and made again", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return entry

    def writer(self, key: str, num_rows: int, about: dict) -> "Writer":
        """Return what writes an entry whose lock is held.

        Args:
            key: its name.
            num_rows: how many rows will be added.
            about: what the rows are, for people who look into the folder.
        """
        return Writer(self, key, num_rows, about)

    def entries(self) -> list[tuple[float, int, Path]]:
        """Return (last use, bytes, folder) of all entries, the least recently used first."""
        found = []
        for facts in self.folder.glob(f"*/{FACTS}"):
            with contextlib.suppress(OSError):  # removed by another process meanwhile
                size = sum(file.stat().st_size for file in facts.parent.iterdir())
                found.append((facts.stat().st_mtime, size, facts.parent))
        return sorted(found)

    def make_room(self, size: int) -> None:
        """Remove entries until `size` more bytes fit.

        A process that has mapped a removed entry keeps it: the disk gives up the room when that process ends.

        Raises:
            CacheFull: the entry alone is larger than the limit, or than what the disk has left.
        """
        if size > self.limit:
            raise CacheFull(
                f"{size / 1e9:.3g} GB are needed, cache_gigabytes allows {self.limit / 1e9:.3g}; raise that"
            )
        entries = self.entries()
        total = sum(each for _, each, _ in entries)
        for _, each, folder in entries:
            if total + size <= self.limit:
                break
            log.info("%s is removed, for cache_gigabytes to be kept", folder)
            shutil.rmtree(folder, ignore_errors=True)
            total -= each
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise CacheFull(f"{size / 1e9:.3g} GB are needed in {self.folder}, {free / 1e9:.3g} are free; make room")


class Writer:
    """Writes one entry, rows in order; a context that leaves nothing behind if it ends without `commit`."""

    def __init__(self, cache: Cache, key: str, num_rows: int, about: dict):
        self.cache, self.key, self.num_rows, self.about = cache, key, num_rows, about
        self.temporary = cache.folder / f".{key}.partial"
        self.facts: dict = {}
        self.file: IO[bytes] | None = None
        self.written, self.crc = 0, 0

    def __enter__(self) -> "Writer":
        shutil.rmtree(self.temporary, ignore_errors=True)  # of a process that was killed
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def add(self, rows: Tensor) -> None:
        """Append rows (b ...); the first ones decide their shape, dtype and order in memory.

        Raises:
            CacheFull: there is no room.
            ValueError: rows unlike the first.
        """
        file = self._begin(rows) if self.file is None else self.file
        if list(rows.shape[1:]) != self.facts["shape"] or str(rows.dtype) != self.facts["dtype"]:
            raise ValueError(f"rows {tuple(rows.shape)} {rows.dtype} after {self.facts}")
        order = [axis + 1 for axis in self.facts["order"]]
        plain = rows.detach().cpu().permute(0, *order).contiguous().flatten()
        data = plain.view(torch.uint8).numpy().data
        try:
            file.write(data)
        except OSError as error:
            raise CacheFull(f"writing to {self.cache.folder} failed: {error}") from error
        self.crc = zlib.crc32(data, self.crc)
        self.written += len(rows)

    def _begin(self, rows: Tensor) -> IO[bytes]:
        self.cache.make_room(self.num_rows * rows[0].numel() * rows.element_size())
        # as they lie in memory, so that what is read is laid out like what was computed, and computes the same
        order = sorted(range(rows.ndim - 1), key=lambda axis: rows.stride(axis + 1), reverse=True)
        self.facts = {"dtype": str(rows.dtype), "shape": list(rows.shape[1:]), "order": order}
        try:
            self.temporary.mkdir(parents=True)
            self.file = (self.temporary / ROWS).open("wb")
        except OSError as error:
            raise CacheFull(f"writing to {self.cache.folder} failed: {error}") from error
        return self.file

    def commit(self) -> None:
        """Put the entry in place.

        Raises:
            CacheFull: the disk is full.
            ValueError: rows are missing.
        """
        if self.file is None or self.written != self.num_rows:
            raise ValueError(f"{self.written} rows were added, {self.num_rows} announced")
        facts = self.facts | {"num_rows": self.written, "crc32": self.crc, "about": self.about}
        final = self.cache.folder / self.key
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            with (self.temporary / FACTS).open("w") as file:
                json.dump(facts, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            self.temporary.rename(final)
        except OSError as error:
            raise CacheFull(f"writing to {self.cache.folder} failed: {error}") from error


def _map(file: Path, facts: dict) -> Entry:
    """Map an entry's rows from the disk and check them.

    Raises:
        ValueError: size or checksum do not fit.
    """
    shape, order = [facts["shape"][axis] for axis in facts["order"]], facts["order"]
    dtype, count = DTYPES[facts["dtype"]], facts["num_rows"]
    numel = count
    for side in shape:
        numel *= side
    if file.stat().st_size != numel * dtype.itemsize:
        raise ValueError(f"{file.name} has {file.stat().st_size} bytes of {numel * dtype.itemsize}")
    flat = torch.from_file(str(file), shared=False, size=numel, dtype=dtype)  # read-only in effect: private pages
    data, crc = flat.view(torch.uint8).numpy().data, 0
    for start in range(0, len(data), BLOCK):
        crc = zlib.crc32(data[start : start + BLOCK], crc)
    if crc != facts["crc32"]:
        raise ValueError(f"{file.name} does not have its checksum")
    places = [1 + order.index(axis) for axis in range(len(order))]
    return Entry(flat.view(count, *shape), places, facts["about"])
