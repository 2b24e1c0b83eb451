"""Files, for all packages."""

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# what a disk or a file server says when it is full, gone or broken; all else is a bug, and keeps its traceback
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES)


def file_hash(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def save_tensors(tensors: Mapping[str, "Tensor"], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that others may read as any other: the library makes one for its owner alone.

    Args:
        tensors: contiguous, none sharing memory.
        file: to write.
        metadata: texts in its header.

    Raises:
        OSError: the file cannot be written; the library has an error of its own for that.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file  # imports PyTorch, which the grid does without

    file.touch()
    mode = file.stat().st_mode & 0o777  # as the user's umask wants it
    try:
        save_file(dict(tensors), file, metadata)
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(file)) from error
    file.chmod(mode)


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
