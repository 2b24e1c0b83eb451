"""Map a function over items with worker processes, results in the order of the items, with bounded memory."""

import collections
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2

from .record import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 4  # messages per worker that may wait; with `chunk` items each they bound the memory


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, chunk: int = 8
) -> Generator[Result, None, None]:
    """Yield `function(item)` per item, in order.

    Args:
        function: a function of a module (or a `functools.partial` of one), so that it can be sent to a process.
        items: as many as wanted; read only a little ahead of the results.
        workers: number of processes; 0 computes here.
        chunk: items per message between processes: several if they are small.

    Raises:
        DataError: a worker died.
    """
    if workers == 0:
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(workers, initializer=_start_worker)
    iterator = iter(items)
    chunks = iter(lambda: list(itertools.islice(iterator, chunk)), [])  # until one is empty
    pending: collections.deque = collections.deque()
    try:
        for some in itertools.islice(chunks, AHEAD * workers):
            pending.append(pool.submit(_apply, function, some))
        while pending:
            yield from pending.popleft().result()
            for some in itertools.islice(chunks, 1):
                pending.append(pool.submit(_apply, function, some))
    except BrokenProcessPool as error:
        raise DataError("a worker process died, often for lack of memory; try fewer --workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the handler that a command line set for itself
    cv2.setNumThreads(0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent is gone, killed with no time to say so."""
    parent = multiprocessing.parent_process()
    if parent is not None:  # which it never is in a worker
        multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _apply(function: Callable[[Item], Result], chunk: list[Item]) -> list[Result]:
    return [function(item) for item in chunk]
