"""Label maps in further sizes, for evaluation protocols that compare masks and labels in a size of their own."""

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from .dataset import Dataset, Transform
from .record import DataError
from .transform import LABELS, Resize


def sized(key: str, size: int) -> str:
    """Return the name of a label map in another size, `segment@320`."""
    return f"{key}@{size}"


class WithLabels:
    """A dataset whose samples also hold label maps in other sizes, made from the stored ones, not from those resized.

    Each map is cropped as the dataset's are, then resized once (`nearest-exact`) to the other size; the record is read
    and decoded once for all.

    Args:
        dataset: its transforms must not draw.
        wanted: names of `sized`; their maps must be among what the dataset offers.

    Raises:
        DataError: a transform draws, so that maps would differ in what they show; or none resizes the labels.
    """

    def __init__(self, dataset: Dataset, wanted: Iterable[str]):
        self.dataset = dataset
        self.keys, self.transforms, self.file = dataset.keys, dataset.transforms, dataset.file
        self.clip = getattr(dataset, "clip", None)
        self.maps: dict[int, list[str]] = {}
        for name in wanted:
            key, _, size = name.partition("@")
            self.maps.setdefault(int(size), []).append(key)
        drawn = [type(each).__name__ for each in (*self.transforms, self.clip) if each is not None and each.is_random]
        if drawn:
            raise DataError(f"{self.file}: labels in another size need a split without random {', '.join(drawn)}")
        self.resized = {size: [*_resized(self.transforms, size)] for size in self.maps}
        if any(not any(isinstance(each, Resize) for each in steps) for steps in self.resized.values()):
            raise DataError(f"{self.file}: labels in another size need a Resize of 'segment' among the transforms")

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Return the dataset's sample with the further maps added, (h w), of videos (t h w)."""
        decoded = self.dataset.decode(index, rng)
        sample = {"index": index, **self.dataset.prepared(decoded, self.transforms, self.keys, rng)}
        pictures = {key for each in self.transforms for key in each.keys} - {*LABELS}
        labels = {key: value for key, value in decoded.items() if key not in pictures and key != "box"}
        for size, keys in self.maps.items():
            made: dict[str, Tensor] = self.dataset.prepared(labels, self.resized[size], keys, rng)
            sample |= {sized(key, size): value for key, value in made.items()}
        return sample

    def source_id(self, index: int) -> str:
        """Return the name of the sample at its source."""
        return self.dataset.source_id(index)


Split = Dataset | WithLabels  # as its file is, or with further labels


def _resized(transforms: list[Transform], size: int) -> Iterable[Transform]:
    """Yield the transforms as they act on label maps alone, of which `Resize` makes squares of that size."""
    for each in transforms:
        keys = [key for key in each.keys if key in LABELS]
        if keys:
            other = copy.copy(each)
            other.keys = keys
            if isinstance(other, Resize):
                other.size, other.keep_aspect, other.max_size = size, False, None
            yield other
