"""Map a function over items with worker processes, results in the order of the items, with bounded memory."""

import collections
import itertools
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2

from .lmdb import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 8  # items per message between processes


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield `function(item)` per item, in order.

    Args:
        function: a function of a module (or a `functools.partial` of one), so that it can be sent to a process.
        items: as many as wanted; read only a little ahead of the results.
        workers: number of processes; 0 computes here.

    Raises:
        DataError: a worker died.
    """
    if workers == 0:
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(workers, initializer=_start_worker)
    iterator = iter(items)
    chunks = iter(lambda: list(itertools.islice(iterator, CHUNK)), [])  # until one is empty
    pending: collections.deque = collections.deque()
    try:
        for chunk in itertools.islice(chunks, 4 * workers):
            pending.append(pool.submit(_apply, function, chunk))
        while pending:
            yield from pending.popleft().result()
            for chunk in itertools.islice(chunks, 1):
                pending.append(pool.submit(_apply, function, chunk))
    except BrokenProcessPool as error:
        raise DataError("a worker process died, often for lack of memory; try fewer --workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the handler that a command line set for itself
    cv2.setNumThreads(0)


def _apply(function: Callable[[Item], Result], chunk: list[Item]) -> list[Result]:
    return [function(item) for item in chunk]
