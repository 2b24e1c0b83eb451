"""What all image datasets share: find the record, decode what is asked for, transform, renumber the segments."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from ..registry import suggest
from .lmdb import Reader
from .numbering import renumber
from .record import DataError

Sample = dict[str, Any]


class Clip(Protocol):
    """What chooses elements of a list or an axis: see `clip`."""

    @property
    def is_random(self) -> bool:
        """Whether it draws from the generator."""

    def __call__(self, length: int, rng: np.random.Generator | None) -> range:
        """Return the elements to take of so many."""


class Transform(Protocol):
    """What changes a sample: see `transform`."""

    keys: list[str]

    @property
    def is_random(self) -> bool:
        """Whether it draws from the generator."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the sample, changed."""


DOUBTFUL = ("border", "crowd", "overlap", "unlabelled")  # kinds of pixels whose label is no plain fact
RENDERED = dict.fromkeys(DOUBTFUL, "none: rendered labels are complete")


class Dataset:
    """Base of the registered datasets; a subclass names its store and may add entries of its own.

    A sample has the entries that `keys` names and `index` (int):
        image: (c h w) uint8, RGB, [0, 255].
        segment: (h w) uint8, or int32 if the store holds more than 255 ids; 0 = background, objects are 1..n.

    Args:
        file: path of the LMDB file below `data_dir`.
        keys: the entries to decode and deliver.
        transforms: objects called one after the other as `transform(sample, rng) -> sample`.
        data_dir: the folder with all datasets; comes from the command line.

    Raises:
        DataError: the file cannot be used, or offers no such key.
    """

    store: ClassVar[str] = ""  # dataset name in the file's header
    command: ClassVar[str] = ""  # makes the file
    offered: ClassVar[tuple[str, ...]] = ("image", "segment")
    needed: tuple[str, ...] = ()  # entries that are read beside those asked for, for `finish`
    rows: ClassVar[tuple[str, ...]] = ()  # entries with a row per segment, row k for segment k + 1
    derived: ClassVar[
        dict[str, tuple[str, ...]]
    ] = {}  # entries that `finish` makes, and the stored ones it makes them of
    regions: ClassVar[dict[str, str]] = {}  # kinds of doubtful pixels, and the entry (h w) bool that marks them
    without: ClassVar[dict[str, str]] = {}  # kinds that the labels lack, and why
    class_map: ClassVar[str] = ""  # the entry that holds a map of classes, if there is one

    def __init__(self, file: str, keys: list[str], transforms: list | None = None, data_dir: str = "."):
        self.file = Path(data_dir) / file
        self.keys = list(keys)
        self.transforms: list[Transform] = list(transforms or [])
        for key in keys:
            if key not in self.offered:
                raise DataError(f"{type(self).__name__} offers no key {key!r}; {suggest(key, self.offered)}")
        self.stored = tuple(dict.fromkeys(entry for key in keys for entry in self.derived.get(key, (key,))))
        rows = [key for key in keys if key in self.rows]
        if rows and "segment" not in keys:
            raise DataError(f"{type(self).__name__}: keys {rows} have a row per segment; add 'segment' to the keys")
        self.reader = Reader(self.file, self.store, self.command)
        if not len(self.reader):
            raise DataError(f"{self.file} holds no samples; make it again: {self.command}")
        self.segment_dtype = torch.uint8 if self.reader.header.max_segment <= 255 else torch.int32
        if self.reader.published:
            self.check_published()

    def check_published(self) -> None:
        """Try the first record of a published file; its label map tells whether ids need more than 8 bits.

        Raises:
            DataError: another dataset, or the file cannot give what is asked for.
        """
        stored = self.reader.read(0)
        there = ", ".join(sorted(stored))
        if not self.recognises(stored):
            raise DataError(
                f"{self.file} is a published file of another dataset, its records hold {there}; make: {self.command}"
            )
        record = self.translated(stored, self.stored, 0)
        for key in self.stored:
            if key not in record:
                raise DataError(
                    f"{self.file} is a published file without {key!r}, its records hold {there}; make: {self.command}"
                )
        labels = record.get("segment", [])
        if any(label.dtype != np.uint8 for label in (labels if isinstance(labels, list) else [labels])):
            self.segment_dtype = torch.int32

    @classmethod
    def recognises(cls, stored: dict[str, Any]) -> bool:
        """Return whether a published record is one of this dataset."""
        return False

    def __len__(self) -> int:
        return len(self.reader)

    def source_id(self, index: int) -> str:
        """Return the name of a sample in the original dataset (in published files, which lack it: the record's key)."""
        if self.reader.published:
            return self.reader.key(index)
        return self.reader.read(index, ["source_id"])["source_id"]

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Return a decoded and transformed sample.

        Args:
            index: 0 <= index < len.
            rng: the only source of randomness of the transforms.

        Raises:
            DataError: the record is damaged or lacks an entry.
        """
        return {"index": index, **self.prepared(self.decode(index, rng), self.transforms, self.keys, rng)}

    def prepared(
        self, sample: Sample, transforms: list[Transform], keys: list[str], rng: np.random.Generator
    ) -> Sample:
        """Return those entries of a decoded sample that `keys` names, transformed and finished."""
        for transform in transforms:
            sample = transform(sample, rng)
        sample = self.finish(sample)
        return {key: _contiguous(sample[key]) for key in keys}

    def decode(self, index: int, rng: np.random.Generator) -> Sample:
        """Return the entries of a sample as tensors, untransformed."""
        record = self.record(index, rng)
        return {key: self.entry(key, record[key], index) for key in record}

    def finish(self, sample: Sample) -> Sample:
        """Make of the transformed sample what is delivered: number its segments anew."""
        return self.renumbered(sample)

    def renumbered(self, sample: Sample, keep: Tensor | None = None) -> Sample:
        """Return the sample with what is left of its segments numbered 1..n, background staying 0, and their rows.

        Args:
            sample: if it has `segment`, also those of `rows` that are wanted.
            keep: (m) bool, for the segments 1..m of the store whether they stay segments; None keeps all.
        """
        if "segment" not in sample:
            return sample
        rows = {key: sample[key] for key in self.rows if key in sample}
        if keep is None and rows:
            keep = torch.ones(len(next(iter(rows.values()))), dtype=torch.bool)
        segment, kept = renumber(sample["segment"], keep)
        return {**sample, "segment": segment, **{key: row[kept] for key, row in rows.items()}}

    def record(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Return the entries that `stored` and `needed` name, as our converter stores them, whoever wrote the file.

        Raises:
            DataError: the record lacks one of them.
        """
        keys = list(dict.fromkeys([*self.stored, *self.needed]))
        if self.reader.published:
            record = self.translated(self.reader.read(index), keys, index)
        else:
            record = self.reader.read(index, keys)
        self.check_keys(record, keys, index)
        return record

    def check_keys(self, record: dict[str, Any], keys: list[str], index: int) -> None:
        """Raise `DataError` if a record lacks one of the keys."""
        for key in keys:
            if key not in record:
                there = ", ".join(sorted(self.reader.read(index)))
                raise DataError(
                    f"{self.file}, sample {index}: there is no {key!r}; its entries are: {there}. "
                    f"To have all, make the file anew: {self.command}"
                )

    def translated(self, stored: dict[str, Any], keys: Collection[str], index: int) -> dict[str, Any]:
        """Return what `translate` does; entries of unexpected types are an error that names the sample."""
        where = f"{self.file}, sample {index}"
        try:
            return self.translate(stored, keys, where)
        except (AttributeError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{where} is not what published records are ({error!r}); download it again") from error

    def translate(self, stored: dict[str, Any], keys: Collection[str], where: str) -> dict[str, Any]:
        """Return those entries of a published record that `keys` names and it has, as our converter stores them.

        Args:
            stored: the record.
            keys: names of ours.
            where: file and sample, for messages.

        Raises:
            DataError: the record is not what it must be.
        """
        raise DataError(f"{where}: no published files of {self.store!r} are known; make one with: {self.command}")

    def entry(self, key: str, value: Any, index: int) -> Any:
        """Decode one entry of a record."""
        if key == "image":
            return self.image(value, index)
        if key == "segment":
            return self.segment(value)
        if key == "category":
            return torch.from_numpy(value).long()
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    def image(self, stored: bytes | np.ndarray, index: int) -> Tensor:
        """Return a picture, encoded or stored decoded, as (c h w) uint8 RGB, a permuted view of (h w c)."""
        array = decode_image(stored) if isinstance(stored, bytes) else as_picture(stored)
        if array is None:
            raise DataError(
                f"{self.file}, sample {index}: the picture cannot be decoded; make it again: {self.command}"
            )
        return torch.from_numpy(array).permute(2, 0, 1)

    def segment(self, array: np.ndarray) -> Tensor:
        """Return a stored label map as (h w) uint8, or int32 for the whole store if one of its ids needs that."""
        if array.dtype != np.uint8:
            if self.segment_dtype == torch.uint8 and array.max(initial=0) > 255:
                raise DataError(
                    f"{self.file} holds a segment {array.max()}, but its first sample has 8 bits; rewrite it: "
                    "python convert.py upgrade"
                )
            array = array.astype(np.int32)  # torch indexes and compares no uint16
        return torch.from_numpy(array).to(self.segment_dtype)


def as_picture(stored: Any) -> np.ndarray | None:
    """Return what is stored if it is a decoded picture, (h w 3) uint8; None if it is anything else."""
    fits = isinstance(stored, np.ndarray) and stored.dtype == np.uint8 and stored.ndim == 3 and stored.shape[2] == 3
    return stored if fits else None


def decode_image(encoded: bytes | np.ndarray) -> np.ndarray | None:
    """Decode a JPEG, PNG or WebP file.

    Args:
        encoded: the file's bytes.

    Returns:
        (h w c) uint8 RGB, grey repeated, alpha dropped, EXIF orientation ignored because label maps are not rotated;
        None if it cannot be decoded.
    """
    buffer = np.frombuffer(encoded, np.uint8)
    try:
        return cv2.imdecode(buffer, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # an empty buffer
        return None


def decode_label(encoded: bytes | np.ndarray, where: str) -> np.ndarray:
    """Decode a label map or depth picture of a published file, WebP or PNG.

    Args:
        encoded: the file's bytes, or an array (n) or (n 1) of them.
        where: file and sample, for messages.

    Returns:
        (h w) uint8 or, of 16-bit PNG, uint16.

    Raises:
        DataError: it cannot be decoded.
    """
    buffer = np.frombuffer(encoded, np.uint8)
    flags = cv2.IMREAD_GRAYSCALE | (0 if buffer[:4].tobytes() == b"RIFF" else cv2.IMREAD_ANYDEPTH)
    array = cv2.imdecode(buffer, flags) if len(buffer) else None
    if array is None:
        raise DataError(f"{where}: a label map cannot be decoded; download the file again")
    return array


def _contiguous(entry: Any) -> Any:
    return entry.contiguous() if isinstance(entry, Tensor) else entry
