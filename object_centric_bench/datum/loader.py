"""Batches for training and evaluation, the same for any number of workers and after a restart at any step."""

import dataclasses
import itertools
import math
import signal
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, default_collate

from .axis import pad_to_longest
from .dataset import Dataset
from .record import DataError

# entries with one row per segment or object, whose number differs from sample to sample, and the axis of these rows:
# boxes are (n 4), of videos (t n 4); visibility is (t n)
PER_SEGMENT = {"box": -2, "category": -1, "is_thing": -1, "is_crowd": -1, "visibility": -1}
EVAL_SEED = 0  # an evaluation with random transforms draws the same each time
GRACE = 60  # seconds that a worker goes on after SIGTERM, so that the parent can end its step and save
PREFETCH = 2  # batches per worker


def epoch_length(dataset: Dataset, batch_size: int) -> int:
    """Return the number of batches of one pass, the last smaller one included."""
    return math.ceil(len(dataset) / batch_size)


def batches(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int,
    total_steps: int,
    start_step: int = 0,
    num_workers: int = 0,
    pin_memory: bool = False,
    start_method: str | None = None,
    rank: int = 0,
    processes: int = 1,
) -> Iterator[dict[str, Any]]:
    """Yield the batches of steps `start_step` to `total_steps - 1`, each epoch in an order of its own.

    Starting late costs nothing: order and draws depend on (seed, epoch, index) only.

    Args:
        dataset: gives the samples.
        batch_size: over all processes; the last batch of an epoch may be smaller.
        seed: non-negative.
        total_steps: the step before which to end.
        start_step: steps done before.
        num_workers: processes that read and decode; 0 does it here.
        pin_memory: put batches where CUDA copies them from without waiting.
        start_method: of the workers: fork, spawn or forkserver; None is the system's default.
        rank: number of this process, which gets every `processes`-th sample of a batch from the `rank`-th on.
        processes: how many share the batches. One whose part of a batch is empty gets the batch's first sample, which
            must not count there: `part` says 0.

    Yields:
        The samples' entries with a leading b, `index` (b) int64 among them; those of `PER_SEGMENT` padded with zeros to
        (b n ...) or (b t n ...), n being the greatest number in the batch.

    Raises:
        DataError: a sample cannot be read, or a worker died; the text names file and index.
        ValueError: numbers that make no sense, or samples that do not fit into one batch.
    """
    if batch_size < 1 or seed < 0 or start_step < 0:
        raise ValueError(f"batch_size {batch_size}, seed {seed}, start_step {start_step}: 1, 0 and 0 at least")
    schedule = Schedule(len(dataset), batch_size, seed, start_step, total_steps, rank, processes)
    yield from _load(dataset, schedule, seed, num_workers, pin_memory, start_method)


def eval_batches(
    dataset: Dataset,
    batch_size: int,
    num_workers: int = 0,
    pin_memory: bool = False,
    start_method: str | None = None,
    rank: int = 0,
    processes: int = 1,
) -> Iterator[dict[str, Any]]:
    """Yield every sample once, in the order of the store; arguments and errors as for `batches`.

    A process gets whole batches, every `processes`-th from the `rank`-th on.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: 1 at least")
    starts = range(0, len(dataset), batch_size)[rank::processes]
    schedule = [[(0, index) for index in range(start, min(start + batch_size, len(dataset)))] for start in starts]
    yield from _load(dataset, schedule, EVAL_SEED, num_workers, pin_memory, start_method)


@dataclasses.dataclass(frozen=True)
class Schedule(Sampler):
    """Lists of (epoch, index), one list per step from `start_step` on."""

    num_samples: int
    batch_size: int
    seed: int
    start_step: int
    total_steps: int
    rank: int = 0
    processes: int = 1

    def __len__(self) -> int:
        return max(0, self.total_steps - self.start_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        length = math.ceil(self.num_samples / self.batch_size)
        order, known = np.empty(0, int), -1
        for step in range(self.start_step, self.total_steps):
            epoch, position = divmod(step, length)
            if epoch != known:
                order, known = np.random.default_rng([self.seed, epoch]).permutation(self.num_samples), epoch
            start = position * self.batch_size
            batch = order[start : start + self.batch_size]
            own = batch[self.rank :: self.processes]
            yield [(epoch, int(index)) for index in (own if len(own) else batch[:1])]


def part(num_samples: int, batch_size: int, step: int, rank: int, processes: int) -> float:
    """Return which part of a step's samples a process has, so that these parts sum to 1 over processes."""
    position = step % math.ceil(num_samples / batch_size)
    size = min(batch_size, num_samples - position * batch_size)
    return len(range(rank, size, processes)) / size


@dataclasses.dataclass(frozen=True)
class _Failure:
    """A sample that could not be read; travels from the worker in place of the batch."""

    message: str


@dataclasses.dataclass(frozen=True)
class _Samples(torch.utils.data.Dataset):
    dataset: Dataset
    seed: int

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any] | _Failure:
        epoch, index = item
        # the last number keeps the draws of sample 0 apart from the order of the epoch: a seed of [seed, epoch] is the
        # same as one of [seed, epoch, 0]
        rng = np.random.default_rng([self.seed, epoch, index, 1])
        try:
            return self.dataset.sample(index, rng)
        except DataError as error:
            return _Failure(str(error))
        except ValueError as error:  # a transform that does not fit the sample
            return _Failure(f"{_name(self.dataset)}, sample {index}: {error}")
        except Exception as error:
            error.add_note(f"while reading {_name(self.dataset)}, sample {index}")
            raise


def _name(dataset: Dataset) -> str:
    return str(getattr(dataset, "file", type(dataset).__name__))


def _load(
    dataset: Dataset,
    schedule: Schedule | list[list[tuple[int, int]]],
    seed: int,
    num_workers: int,
    pin_memory: bool,
    start_method: str | None,
) -> Iterator[dict[str, Any]]:
    loader = DataLoader(
        _Samples(dataset, seed),
        batch_sampler=schedule,
        num_workers=num_workers,
        collate_fn=getattr(dataset, "collate", collate),  # one that measures has its own
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        prefetch_factor=PREFETCH if num_workers else None,
        multiprocessing_context=start_method if num_workers else None,
        generator=torch.Generator().manual_seed(seed),  # else it draws from the global one, and so changes training
    )
    delivered = 0
    try:
        for batch in loader:
            if isinstance(batch, _Failure):
                raise DataError(batch.message)
            delivered += 1
            yield batch
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):  # PyTorch's words for a process that is gone
            raise
        awaited = [index for _, index in next(itertools.islice(schedule, delivered, None))]
        raise DataError(
            f"{_name(dataset)}: a data worker died while samples {awaited} were awaited ({error}); "
            "often memory ran out: try fewer workers"
        ) from error


def _start_worker(number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends the workers
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # clusters send it to all processes; it means the parent
    # SIGTERM as well, or it means this worker, whose parent gave it time to end by itself
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def collate(samples: list[dict[str, Any] | _Failure]) -> dict[str, Any] | _Failure:
    """Stack samples to a batch; pad the entries of `PER_SEGMENT` at their end.

    Args:
        samples: dicts with equal keys; or messages of what went wrong.

    Returns:
        The batch; or the first message, or one about entries that differ in size.
    """
    whole = []
    for sample in samples:
        if isinstance(sample, _Failure):
            return sample
        whole.append(sample)
    batch = {}
    for key in whole[0]:
        entries = [sample[key] for sample in whole]
        shapes = sorted({tuple(entry.shape) for entry in entries if isinstance(entry, torch.Tensor)})
        if len(shapes) <= 1:
            batch[key] = default_collate(entries)
            continue
        indices = [sample["index"] for sample in whole]
        differ = f"samples {indices} differ in the size of {key!r}: {shapes}"
        if key not in PER_SEGMENT:
            return _Failure(f"{differ}; add a Resize to one size")
        try:
            batch[key] = pad_to_longest(entries, PER_SEGMENT[key])
        except ValueError:
            return _Failure(f"{differ}; only the number of objects may differ")
    return batch
