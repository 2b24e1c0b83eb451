"""One run per folder: who writes there holds a lock, which ends with the process, however that ends."""

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .registry import ConfigError

log = logging.getLogger(__name__)


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process; the lock is a hidden file beside it, for the folder itself may be moved.

    The lock is one of POSIX: processes forked from this one do not have it, so none keeps it after this one's end.

    Args:
        folder: of the run; its parent is made.

    Raises:
        ConfigError: another process holds it, or nothing can be written there.
    """
    file = folder.with_name(f".{folder.name}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = file.open("a+")
    except OSError as error:
        raise ConfigError(f"--save_dir: nothing can be written to {folder.parent}: {error.strerror}") from error
    with opened:
        try:
            fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                opened.seek(0)
                raise ConfigError(
                    f"{folder} is in use by another run ({opened.read().strip()}): wait until it ends, or give another "
                    "--save_dir or --seed"
                ) from error
            log.warning("%s cannot be locked (%s): start no second run in %s", file, error.strerror, folder)
        else:
            opened.truncate(0)
            opened.write(f"process {os.getpid()} on {socket.gethostname()}")
            opened.flush()
        yield
