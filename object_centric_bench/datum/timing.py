"""Where the time of a sample goes, measured in the process that makes it; it travels with the batch.

A dataset is instrumented by giving this one object other methods, so that one which is not costs nothing.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .dataset import Dataset
from .loader import collate

SAMPLES, BATCH = "timing", "timing_of_batch"  # entries of a batch, see `instrument`
PARTS = ("read", "decode", "transform")


class Clock:
    """Adds up seconds per part; a part within another counts for itself alone."""

    def __init__(self):
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.inner: list[float] = []

    def run(self, part: str, function: Callable, *arguments: Any, **named: Any) -> Any:
        """Call a function and count its time as a part's."""
        self.inner.append(0.0)
        start = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[part] += elapsed - self.inner.pop()
            if self.inner:
                self.inner[-1] += elapsed


class TimedMethod:
    """A method of one object whose time counts as a part's. Can be pickled, for workers that are spawned."""

    def __init__(self, owner: Any, name: str, part: str, clock: Clock):
        self.owner, self.name, self.part, self.clock = owner, name, part, clock

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the method of the object's class."""
        return self.clock.run(self.part, getattr(type(self.owner), self.name), self.owner, *arguments, **named)


class TimedSample(TimedMethod):
    """The method `sample`, which adds what was measured."""

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Return the sample with `timing` (5) float64: when it began, seconds of each part, process."""
        self.clock.seconds = dict.fromkeys(PARTS, 0.0)
        start = time.perf_counter()
        sample = super().__call__(index, rng)
        numbers = [start, *self.clock.seconds.values(), os.getpid()]
        return {**sample, SAMPLES: torch.tensor(numbers, dtype=torch.float64)}


def timed_collate(samples: list) -> Any:
    """Return the batch with `timing_of_batch` (3) float64: when collating began, its seconds, process."""
    start = time.perf_counter()
    batch = collate(samples)
    if isinstance(batch, dict):
        numbers = [start, time.perf_counter() - start, os.getpid()]
        batch[BATCH] = torch.tensor(numbers, dtype=torch.float64)
    return batch


def instrument(dataset: Dataset) -> Dataset:
    """Let a dataset measure: its batches get `timing` (b 5) and `timing_of_batch` (3), see above; return it."""
    clock = Clock()
    inner = getattr(dataset, "dataset", dataset)  # of one that adds labels to another
    replaced = TimedMethod(inner.reader, "read", "read", clock)
    inner.reader.read = replaced  # type: ignore[method-assign]  # of this one only, like those below
    for name in ("entry", "translated"):
        setattr(inner, name, TimedMethod(inner, name, "decode", clock))
    dataset.sample = TimedSample(dataset, "sample", "transform", clock)  # type: ignore[method-assign]
    dataset.collate = timed_collate  # type: ignore[attr-defined]  # which the loader looks for
    return dataset
