"""Files, for all packages."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# what a disk or a file server says when it is full, gone or broken; all else is a bug, and keeps its traceback
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES)


def file_hash(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Give a path to write to, of the same folder and suffix; what is there afterwards takes the file's place, whole.

    The folder is made. If writing fails, what stood there before still does, and nothing else is left; the error names
    the file, which a full disk's does not by itself.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}.{os.getpid()}.tmp{file.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(file)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # not another file, which was read meanwhile
            error.filename = str(file)
        raise
    finally:
        temporary.unlink(missing_ok=True)
