"""Text files that grow line by line while a run trains, and go on after a crash where its checkpoint was made."""

import os
from collections.abc import Iterable
from pathlib import Path


class LineFile:
    """A file to which whole lines are added.

    Args:
        file: made if missing.
        size: bytes to keep of what is there, as `sync` returned them; None keeps all whole lines. What a run wrote
            after its last checkpoint, a cut line included, is written again and must not stand there twice.
    """

    def __init__(self, file: Path, size: int | None):
        self.file = file
        with file.open("ab") as opened:
            there = opened.tell()
            opened.truncate(self._whole_lines() if size is None else min(size, there))

    def _whole_lines(self) -> int:
        return self.file.read_bytes().rfind(b"\n") + 1

    def add(self, lines: Iterable[str]) -> None:
        """Add lines at the end; a kill leaves all, some or a cut one of them."""
        with self.file.open("a") as opened:
            opened.writelines(f"{line}\n" for line in lines)

    def sync(self) -> int:
        """Wait until all lines are on the disk; return the file's size in bytes."""
        with self.file.open("rb") as opened:
            os.fsync(opened.fileno())
            return opened.seek(0, os.SEEK_END)
