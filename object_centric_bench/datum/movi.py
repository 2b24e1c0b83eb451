"""MOVi-A to MOVi-F, videos with ground truth of objects, motion and depth: the converter and the dataset."""

import functools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch

from ..registry import register
from . import conversion, movi_source, published_video
from .dataset import RENDERED, Dataset, Sample, decode_image, decode_label
from .flow import decode_flow, encode_flow, measure
from .record import DataError

SOURCE = """\
Download movi_d, or any of movi_a to movi_f, with Google's gsutil
(https://cloud.google.com/storage/docs/gsutil_install):
  mkdir -p RAW/movi_d/256x256
  gsutil -m cp -r gs://kubric-public/tfds/movi_d/256x256/1.0.0 RAW/movi_d/256x256
There are some 9750 scenes for training and 250 for validation; expect 20 MB each at 256x256 (an
estimate from scenes like these), 200 GB in all. The test split is not needed. --src_dir is this
folder, or one above if no other of its kind lies below:
  movi_d/256x256/1.0.0/dataset_info.json                            (not required)
  movi_d/256x256/1.0.0/features.json                                (not required)
  movi_d/256x256/1.0.0/movi_d-train.tfrecord-00000-of-0NNNN ...
  movi_d/256x256/1.0.0/movi_d-validation.tfrecord-00000-of-0NNNN ...
Other resolutions and lengths are taken as they are. TensorFlow is not needed.
"""


@register
class MOVi(Dataset):
    """MOVi videos, from our files or the published ones.

    Keys:
        video: (t c h w) uint8, RGB.
        segment: (t h w) uint8 or int32; 0 = background, k + 1 = object k in all frames, whatever the transforms leave.
        box: (t n 4) float32, left, top, right, bottom in 0..1, of object k in row k; zeros where it is not visible.
        forward_flow, backward_flow: (t 2 h w) float32, pixels, components row and column: the way to the next, and from
            the previous frame.
        depth: (t 1 h w) float32, metres from the centre of the camera.
        visibility: (t n) int32, visible pixels of each object.
        category: (n) int64, index of the object's category; not in MOVi-A and -B.
    Published files have video, segment, box, backward_flow and depth.

    Args: see `Dataset`.
        clip: chooses the frames to read and decode, `clip(length, rng) -> range`; one of the classes in `clip`. None
            takes all.

    Raises:
        DataError: see `Dataset`; or the file lacks a key.
    """

    store = "movi"
    command = "python convert.py movi --src_dir RAW --dst_dir OUT"
    ranged: ClassVar[tuple[str, ...]] = (
        "forward_flow",
        "backward_flow",
        "depth",
    )  # stored with a minimum and a maximum
    tables: ClassVar[tuple[str, ...]] = ("box", "visibility")  # with a row per frame, stored in one piece
    offered = ("video", "segment", *tables, *ranged, "category")
    without = RENDERED

    def __init__(
        self,
        file: str,
        keys: list[str],
        transforms: list | None = None,
        clip: Callable[[int, np.random.Generator], range] | None = None,
        data_dir: str = ".",
    ):
        self.clip = clip
        self.needed = tuple(f"{key}_range" for key in keys if key in self.ranged)
        super().__init__(file, keys, transforms, data_dir)

    @classmethod
    def recognises(cls, stored: dict[str, Any]) -> bool:
        """Return whether a published record is one of this dataset."""
        return {"video", "segment"} <= stored.keys() and "clazz" not in stored  # YouTube-VIS has categories

    def translate(self, stored: dict[str, Any], keys: Collection[str], where: str) -> dict[str, Any]:
        """See `Dataset`; `<key>_range` comes along with the keys that need it."""
        record: dict[str, Any] = published_video.decode(stored, keys, range, where)
        if "video" in record:
            record["video"] = [_png(frame[:, :, ::-1]) for frame in record["video"]]
        if "segment" in record:
            record["segment"] = list(record["segment"])
        if "backward_flow" in record:
            record["backward_flow"] = [encode_flow(frame) for frame in record["backward_flow"]]
        if "depth" in record:
            record["depth"] = [_png(frame) for frame in record["depth"]]
        return record

    def decode(self, index: int, rng: np.random.Generator) -> Sample:
        """Return the entries of a sample as tensors, untransformed."""
        record = self.record(index, rng)
        sample = {key: self.entry(key, record[key], index) for key in self.keys}
        return sample | {key: measure(sample[key], record[f"{key}_range"]) for key in self.ranged if key in sample}

    def record(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """See `Dataset`; only the frames of the clip. Those of published files are decoded: see `published_video`."""
        where = f"{self.file}, sample {index}"
        keys = [*self.keys, *self.needed]
        choose = _Choice(self.clip, rng, where)
        if self.reader.published:
            record = published_video.decode(self.reader.read(index), keys, choose, where)
        else:
            record = self.reader.read(index, keys, choose)
        self.check_keys(record, keys, index)
        for key in self.tables:
            if key in record:
                record[key] = record[key][list(choose(len(record[key])))]
        return record

    def entry(self, key: str, value: Any, index: int) -> Any:
        """Decode one entry of a record; what `ranged` lists becomes an array of numbers that `measure` interprets."""
        where = f"{self.file}, sample {index}"
        if key == "video":
            frames = np.stack([self.frame(each, where) for each in value]) if isinstance(value, list) else value
            return torch.from_numpy(frames).permute(0, 3, 1, 2)
        if key == "segment":
            return self.segment(np.stack(value))
        if key == "depth":
            return np.stack([decode_label(each, where) if isinstance(each, bytes) else each for each in value])[:, None]
        if key in self.ranged:
            return np.stack([decode_flow(each, where) for each in value]) if isinstance(value, list) else value
        if key == "visibility":
            return torch.from_numpy(value.astype(np.int32))
        return super().entry(key, value, index)

    def frame(self, encoded: bytes, where: str) -> np.ndarray:
        """Return a frame of a video, (h w c) uint8 RGB."""
        array = decode_image(encoded)
        if array is None:
            raise DataError(f"{where}: a frame cannot be decoded; make it again: {self.command}")
        return array

    def finish(self, sample: Sample) -> Sample:
        """Leave the segments as they are: row k of the boxes belongs to id k + 1."""
        return sample


class _Choice:
    """The frames of one sample; drawn once, for all entries."""

    def __init__(self, clip: Callable | None, rng: np.random.Generator, where: str):
        self.clip, self.rng, self.where = clip, rng, where
        self.length = -1
        self.frames: Sequence[int] = range(0)

    def __call__(self, length: int) -> Sequence[int]:
        if self.length < 0:
            self.length = length
            self.frames = range(length) if self.clip is None else self.clip(length, self.rng)
        if length != self.length:
            raise DataError(f"{self.where}: its entries have {self.length} and {length} frames; the file is damaged")
        if not len(self.frames):
            raise DataError(f"{self.where}: the clip takes none of its {length} frames")
        return self.frames


def _png(picture: np.ndarray) -> bytes:
    """Encode (h w 3) uint8 BGR or (h w) uint16."""
    return cv2.imencode(".png", picture)[1].tobytes()


def convert(
    src_dir: str | Path,
    dst_dir: str | Path,
    split: tuple[str, ...] = ("train", "val"),
    workers: int = 0,
    limit: int | None = None,
    force: bool = False,
    skip_bad: bool = False,
) -> None:
    """Convert MOVi-A to -F from TensorFlow Datasets' files to `dst_dir/train.lmdb` and `dst_dir/val.lmdb`.

    Args:
        src_dir: folder with the TFRecord files, or one above it.
        dst_dir: folder to write to, made if missing.
        split: which of train and val; val is the split that the download calls validation.
        workers: processes; 0 converts here. The files are the same.
        limit: convert only that many videos of each split.
        force: start from nothing and replace existing files.
        skip_bad: leave out damaged videos and missing files, and list them.

    Raises:
        DataError: the source is not what it must be, or a file cannot be written.
    """
    conversion.check(split, ("train", "val"), limit)
    jobs = {name: functools.partial(movi_source.list_split, Path(src_dir), name, limit, skip_bad) for name in split}
    conversion.run(MOVi.store, dst_dir, jobs, workers=workers, force=force, skip_bad=skip_bad)
