"""Handles of LMDB files for reading, one per file and process."""

import os
import threading
from pathlib import Path

import lmdb

from .pages import check_tree, newest, read_meta
from .record import DataError

LARGE = 1 << 18  # bytes per record from which on it pays to let the system read ahead, see `environment`

_open: dict[tuple, lmdb.Environment] = {}  # by identity, per process: LMDB refuses to open one file twice
_paths: dict[str, tuple] = {}  # path -> identity: device, inode, size, time of change
_lock = threading.Lock()


def _close_all() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it
    for handle in _open.values():
        handle.close()
    _open.clear()
    _paths.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all)  # LMDB: "do not use an environment across fork"


def environment(file: Path, command: str, reopen: bool = False) -> lmdb.Environment:
    """Return this process's handle of a file; with `reopen`, notice that the file was replaced since, and check it.

    Records of small pictures are read without those beside them, a page at a time. Decoded pictures of COCO's size
    would then take 17 ms from a disk, with the system reading ahead 5 to 8 ms, although it reads more than was asked.
    """
    path = os.path.abspath(file)
    if not reopen and path in _paths:
        return _open[_paths[path]]
    with _lock:
        try:
            status = os.stat(path)
        except OSError as error:
            raise DataError(f"{file}: {error.strerror}; make it with: {command}") from error
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if identity not in _open:
            _forget(path)
            record_size = check_size(file, status.st_size, command)
            if reopen:  # not again in every worker
                check_tree(file, f"copy or download it again, or: {command}")
            try:
                _open[identity] = lmdb.open(
                    path, subdir=False, readonly=True, lock=False, readahead=record_size >= LARGE, meminit=False
                )
            except lmdb.Error as error:
                raise DataError(f"{file} cannot be opened: {error}; make it again: {command}") from error
        _paths[path] = identity
        return _open[identity]


def _forget(path: str) -> None:
    """Close the handle of a file that is no longer under its path, unless another path leads to it."""
    identity = _paths.pop(path, None)
    if identity is not None and identity not in _paths.values():
        _open.pop(identity).close()


def check_size(file: Path, size: int, command: str) -> float:
    """Compare the size with what LMDB's first pages say: reading beyond the end would kill the process (SIGBUS).

    Returns:
        Bytes of the file per record.

    Raises:
        DataError: the file is empty, cut off, or no LMDB file.
    """
    if size == 0:
        raise DataError(f"{file} is empty; make it again: {command}")
    try:
        with file.open("rb") as stream:
            first = read_meta(stream.read(4096))
            if first is None:
                raise DataError(f"{file} is not an LMDB file; make one with: {command}")
            stream.seek(first.page_size)
            second = read_meta(stream.read(4096))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    meta = newest(first, second)
    page_size, last_page = first.page_size, meta.last_page
    if size < 2 * page_size or size < (last_page + 1) * page_size:
        expected = max(2, last_page + 1) * page_size
        raise DataError(f"{file} is cut off: {size} bytes of {expected}; copy or download it again, or: {command}")
    return size / max(1, meta.entries)
