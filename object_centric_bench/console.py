"""What a user sees of work in progress: messages and progress bars, as far as the package's logging level lets them.

`--quiet` raises the level of the logger `object_centric_bench` above INFO, and so do the processes of a run that leave
talking to the main one. Where nobody set a level, in notebooks and tests, everything is shown.
"""

import logging
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def quiet() -> bool:
    """Return whether only warnings, errors and results are wanted."""
    return logging.getLogger(__package__).level > logging.INFO


def say(message: str) -> None:
    """Print a message about the progress of the work, unless only results are wanted."""
    if not quiet():
        print(message, flush=True)


def bar(iterable: Iterable[Any] | None = None, desc: str | None = None, **options: Any) -> tqdm:
    """Return a progress bar with the time left, on standard error; it shows on terminals only, and not when quiet.

    Args:
        iterable: what to go through; None for a bar that is updated by hand.
        desc: the words before it.
        options: further arguments of `tqdm.tqdm`.
    """
    return tqdm(iterable, desc, disable=True if quiet() else None, **options)
