"""Transforms of any axis of the named entries: cut out a part, pad to a size. For those of pictures see `transform`."""

import numpy as np
import torch
from torch import Tensor

from ..registry import register
from .dataset import Clip, Sample

SIDES = ("right", "left", "sides")


def take(sample: Sample, keys: list[str]) -> dict[str, Tensor]:
    """Return the named entries.

    Raises:
        ValueError: the sample lacks one.
    """
    missing = [key for key in keys if key not in sample]
    if missing:
        raise ValueError(f"a transform wants {missing}, the sample has {sorted(sample)}; add it to the dataset's keys")
    return {key: sample[key] for key in keys}


def length(key: str, entry: Tensor, axis: int) -> int:
    """Return the size of an axis.

    Raises:
        ValueError: the entry has no such axis.
    """
    if not -entry.ndim <= axis < entry.ndim:
        raise ValueError(f"{key!r} has {entry.ndim} axes {tuple(entry.shape)}, none numbered {axis}")
    return entry.shape[axis]


def narrow(entry: Tensor, axis: int, part: slice) -> Tensor:
    """Return a part of an axis, a view."""
    return entry[(slice(None),) * (axis % entry.ndim) + (part,)]


def pad(entry: Tensor, axis: int, size: int, value: float = 0, side: str = "right") -> Tensor:
    """Return the entry with an axis padded to a size; one that is longer as it is.

    Args:
        entry: any shape.
        axis: which one.
        size: wanted.
        value: of the new elements.
        side: where they go: right is the end, left the start, sides both (the smaller half at the start).
    """
    missing = max(size - entry.shape[axis], 0)
    before = {"right": 0, "left": missing, "sides": missing // 2}[side]
    shape = list(entry.shape)
    shape[axis] += missing
    padded = entry.new_full(shape, value)
    narrow(padded, axis, slice(before, before + entry.shape[axis])).copy_(entry)
    return padded


@register
class Slice:
    """Cut a part out of an axis, the same of all keys. A dataset that takes a clip itself decodes less.

    Args:
        keys: entries whose axis is equally long.
        axis: which one; of videos 0 are the frames.
        clip: chooses the part, `clip(length, rng) -> range`; one of the classes in `clip`.

    Raises:
        ValueError: `clip` is none; when called, if an entry is missing, has no such axis, or the lengths differ.
    """

    def __init__(self, keys: list[str], axis: int, clip: Clip):
        if not callable(clip):
            raise ValueError(f"clip must be one of the classes that choose a part, got {clip!r}")
        self.keys, self.axis, self.clip = keys, axis, clip

    @property
    def is_random(self) -> bool:
        """Whether the clip draws."""
        return self.clip.is_random

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Return the sample with the part (views)."""
        entries = take(sample, self.keys)
        lengths = {key: length(key, entry, self.axis) for key, entry in entries.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"entries sliced together must be equally long, these are {lengths}")
        chosen = self.clip(next(iter(lengths.values())), rng)
        part = slice(chosen.start, chosen.stop, chosen.step)
        return {**sample, **{key: narrow(entry, self.axis, part) for key, entry in entries.items()}}


@register
class PadTo:
    """Pad an axis to a size, as for the boxes of the objects of videos.

    Args:
        keys: entries.
        axis: which one.
        size: wanted.
        value: of the new elements.
        side: where they go: right is the end, left the start, sides both (the smaller half at the start).
        truncate: cut the end of an axis that is longer than `size`.

    Raises:
        ValueError: size below 0 or another side; when called, if an entry is missing or has no such axis, or one is
            longer than `size` and `truncate` is False.
    """

    is_random = False

    def __init__(
        self, keys: list[str], axis: int, size: int, value: float = 0, side: str = "right", truncate: bool = False
    ):
        if size < 0 or side not in SIDES:
            raise ValueError(f"size is at least 0 and side one of {', '.join(SIDES)}; got {size} and {side!r}")
        self.keys, self.axis, self.size = keys, axis, size
        self.value, self.side, self.truncate = value, side, truncate

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Return the sample, padded."""
        return {**sample, **{key: self.pad(key, entry) for key, entry in take(sample, self.keys).items()}}

    def pad(self, key: str, entry: Tensor) -> Tensor:
        """Return an entry, padded or cut."""
        there = length(key, entry, self.axis)
        if there > self.size and not self.truncate:
            raise ValueError(
                f"{key!r} has {there} along axis {self.axis}, PadTo wants at most {self.size}; "
                "make size larger, or cut the end with truncate=True"
            )
        entry = narrow(entry, self.axis, slice(self.size))
        return entry if there >= self.size else pad(entry, self.axis, self.size, self.value, self.side)


def pad_to_longest(entries: list[Tensor], axis: int) -> Tensor:
    """Stack entries (b ...), an axis padded with zeros at its end to that of the longest.

    Args:
        entries: of equal shape but for `axis`.
        axis: which one, counted in an entry.

    Raises:
        ValueError: entries differ in another axis.
    """
    shapes = {tuple(entry.shape) for entry in entries}
    if len(shapes) == 1:
        return torch.stack(entries)
    others = {tuple(n for k, n in enumerate(shape) if k != axis % max(len(shape), 1)) for shape in shapes}
    if len(others) > 1 or len({len(shape) for shape in shapes}) > 1:
        raise ValueError(f"entries differ in more than axis {axis}: {sorted(shapes)}")
    longest = max(shape[axis] for shape in shapes)
    return torch.stack([pad(entry, axis, longest) for entry in entries])
