"""COCO 2017 with panoptic segmentations: the converter and the dataset."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch

from ..registry import register
from .dataset import Dataset, Sample, decode_image, renumber
from .lmdb import DataError, Packed, pack, refuse_existing, write
from .parallel import ordered_map

SOURCE = """\
Download (20 GB in all) from https://cocodataset.org/#download and unpack below one folder:
  http://images.cocodataset.org/zips/train2017.zip                                       18 GB
  http://images.cocodataset.org/zips/val2017.zip                                          1 GB
  http://images.cocodataset.org/annotations/panoptic_annotations_trainval2017.zip       821 MB
    (holds two more archives, panoptic_train2017.zip and panoptic_val2017.zip: unpack these too)
  https://raw.githubusercontent.com/cocodataset/panopticapi/master/panoptic_coco_categories.json
so that --src_dir holds
  train2017/*.jpg                      val2017/*.jpg
  annotations/panoptic_train2017.json  annotations/panoptic_train2017/*.png
  annotations/panoptic_val2017.json    annotations/panoptic_val2017/*.png
  annotations/panoptic_coco_categories.json   (or directly in --src_dir)
"""
CATEGORIES = "panoptic_coco_categories.json"


@register
class COCO(Dataset):
    """COCO panoptic, from our files or the published ones.

    Keys:
        image: (c h w) uint8, RGB.
        segment: (h w) uint8 or int32; 0 = unlabelled and, with `instance`, stuff; segments are 1..n.
        box: (n 4) float32, left, top, right, bottom in 0..1; row k belongs to segment k + 1.
        category: (n) int64, COCO's category id: things 1..90, stuff 92..200.
        is_thing: (n) bool.
        is_crowd: (n) bool; a group of things under one id. Not in published files.
    The last four need `segment` in `keys` too: rows whose segment the transforms removed are dropped. A batch pads them
    with zero rows.

    Args: see `Dataset`.
        instance: things only are segments; stuff becomes background after the transforms. False keeps both.

    Raises:
        DataError: see `Dataset`; or the file lacks a key, or holds things only although `instance` is False.
    """

    store = "coco"
    command = "python convert.py coco --src_dir RAW --dst_dir OUT"
    rows: ClassVar[tuple[str, ...]] = ("box", "category", "is_thing", "is_crowd")
    offered = ("image", "segment", *rows)
    published_names: ClassVar[dict[str, str]] = {"box": "bbox", "category": "clazz", "is_thing": "isthing"}

    def __init__(
        self,
        file: str,
        keys: list[str],
        transforms: list | None = None,
        instance: bool = True,
        data_dir: str = ".",
    ):
        super().__init__(file, keys, transforms, data_dir)
        self.instance = instance
        needs = [key for key in keys if key in self.rows]
        if needs and "segment" not in keys:
            raise DataError(f"COCO: keys {needs} have a row per segment; add 'segment' to the keys")
        # published files of late 2025 hold things only, under ids with gaps, and no `isthing`
        self.things_only = False
        if self.reader.published:
            self.check_published()

    def check_published(self) -> None:
        """Recognise the generation of a published file from its first record.

        Raises:
            DataError: another dataset, or the file cannot give what is asked for.
        """
        there = set(self.reader.read(0))
        if not {"image", "segment", "clazz"} <= there:
            raise DataError(
                f"{self.file} is a published file of another dataset, its records hold {', '.join(sorted(there))}; "
                f"make one with: {self.command}"
            )
        self.things_only = "isthing" not in there
        if self.things_only and not self.instance:
            raise DataError(f"{self.file} holds things only: use instance=True, or make it again: {self.command}")
        for key in self.keys:
            if key == "is_crowd" or (key == "box" and "bbox" not in there):
                raise DataError(f"{self.file} is a published file without {key!r}; make one with: {self.command}")

    def record(self, index: int, keys: list[str]) -> dict[str, Any]:
        """Return the stored entries under our names; with `segment` also what `finish` needs."""
        keys = list(dict.fromkeys([*keys, "is_thing"] if "segment" in keys else keys))
        if not self.reader.published:
            return super().record(index, keys)
        derived = {"is_thing"} if self.things_only else set()
        names = {key: self.published_names.get(key, key) for key in keys if key not in derived}
        if "segment" in keys:
            names.setdefault("category", "clazz")  # gives the number of rows
        stored = super().record(index, list(names.values()))
        record = {key: stored[name] for key, name in names.items()}
        if "segment" in record:
            record["segment"] = self.decode_label(record["segment"], index)
            if self.things_only:
                ids, ranks = np.unique(record["segment"], return_inverse=True)
                ranks = ranks.reshape(record["segment"].shape) + (0 if len(ids) and ids[0] == 0 else 1)
                record["segment"] = ranks.astype(np.uint8)
                record["is_thing"] = np.ones(np.count_nonzero(ids), bool)
            if len(record["category"]) != len(record["is_thing"]):
                raise DataError(
                    f"{self.file}, sample {index}: {len(record['is_thing'])} segments and {len(record['category'])} "
                    f"categories; the file is damaged, make one with: {self.command}"
                )
        return record

    def decode_label(self, encoded: np.ndarray, index: int) -> np.ndarray:
        """Decode a label map of a published file, WebP or PNG, to (h w) uint8."""
        array = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE) if len(encoded) else None
        if array is None:
            raise DataError(f"{self.file}, sample {index}: the label map cannot be decoded; make it: {self.command}")
        return array

    def decode(self, index: int) -> Sample:
        """Return the entries of a sample as tensors, untransformed, and `is_thing` where there is `segment`."""
        record = self.record(index, self.keys)
        sample: Sample = {}
        if "image" in self.keys:
            sample["image"] = self.image(record["image"], index)
        if "segment" in self.keys:
            sample["segment"] = self.segment(record["segment"])
            for key in {"is_thing", *self.keys} & set(self.rows):
                sample[key] = torch.from_numpy(record[key])
        if "category" in sample:
            sample["category"] = sample["category"].long()
        return sample

    def finish(self, sample: Sample) -> Sample:
        """Make stuff background if wanted, renumber the segments that are left, drop the rows of the others."""
        if "segment" not in sample:
            return sample
        is_thing = sample["is_thing"]
        segment, kept = renumber(sample["segment"], is_thing if self.instance else torch.ones_like(is_thing))
        return {**sample, "segment": segment, **{key: sample[key][kept] for key in self.rows if key in sample}}


# -------------------------------------------------------------------------------------------------------- conversion


def convert(
    src_dir: str | Path,
    dst_dir: str | Path,
    split: tuple[str, ...] = ("train", "val"),
    workers: int = 0,
    limit: int | None = None,
    force: bool = False,
) -> None:
    """Convert COCO 2017 panoptic to `dst_dir/train.lmdb` and `dst_dir/val.lmdb`.

    Args:
        src_dir: folder with the unpacked download.
        dst_dir: folder to write to, made if missing.
        split: which of train and val.
        workers: processes; 0 converts here. The files are the same.
        limit: convert only that many images of each split.
        force: replace existing files.

    Raises:
        DataError: the source is not what it must be (nothing is written then), or a file cannot be written.
    """
    src_dir, dst_dir = Path(src_dir), Path(dst_dir)
    files = {name: dst_dir / f"{name}.lmdb" for name in split}
    for file in files.values():
        refuse_existing(file, force)
    things = read_categories(src_dir)
    jobs = {name: read_split(src_dir, name, things, limit) for name in split}  # all checked before anything is written
    for name, items in jobs.items():
        attributes = {"source": "COCO 2017 panoptic", "split": name, "limit": limit}
        samples = ordered_map(_sample, items, workers)
        write(files[name], COCO.store, samples, total=len(items), attributes=attributes, force=force)


@dataclass(frozen=True)
class Item:
    """An annotated image: where it lies, and its segments in rising order of their ids."""

    image: Path
    label: Path
    ids: tuple[int, ...]
    boxes: tuple[tuple[float, ...], ...]  # left, top, width, height, pixels
    categories: tuple[int, ...]
    is_thing: tuple[bool, ...]
    is_crowd: tuple[bool, ...]


def read_categories(src_dir: Path) -> dict[int, bool]:
    """Return whether each category id is a thing.

    Raises:
        DataError: the file is missing or not what it should be.
    """
    files = [src_dir / "annotations" / CATEGORIES, src_dir / CATEGORIES]
    for file in files:
        if file.is_file():
            try:
                return {int(entry["id"]): bool(entry["isthing"]) for entry in _read_json(file)}
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{file} is not COCO's list of categories: {error!r}") from error
    raise DataError(f"{files[0]} is missing. {_there(src_dir)}See: python convert.py coco --help")


def read_split(src_dir: Path, split: str, things: dict[int, bool], limit: int | None) -> list[Item]:
    """Return what a split's JSON lists, in its order, after checking it against the folders.

    Raises:
        DataError: something is missing (named) or inconsistent.
    """
    images, labels = src_dir / f"{split}2017", src_dir / "annotations" / f"panoptic_{split}2017"
    for folder in (images, labels):
        if not folder.is_dir():
            raise DataError(
                f"the folder {folder} is missing. {_there(folder.parent)}See: python convert.py coco --help"
            )
    file = labels.with_suffix(".json")
    content = _read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise DataError(f"{file} is not COCO's panoptic JSON: there is no list 'annotations'")
    items = [_item(entry, images, labels, things, file) for entry in content["annotations"][:limit]]
    if not items:
        raise DataError(f"{file} lists no annotation")
    for folder, paths in ((images, [item.image for item in items]), (labels, [item.label for item in items])):
        there = {path.name for path in folder.iterdir()}
        missing = [path.name for path in paths if path.name not in there]
        if missing:
            raise DataError(f"{folder} lacks {len(missing)} of {len(paths)} files, such as {', '.join(missing[:5])}")
    return items


def _item(entry: Any, images: Path, labels: Path, things: dict[int, bool], file: Path) -> Item:
    try:
        name = str(entry["file_name"])
        segments = sorted(entry["segments_info"], key=lambda segment: segment["id"])
        item = Item(
            image=images / Path(name).with_suffix(".jpg").name,
            label=labels / Path(name).name,
            ids=tuple(int(segment["id"]) for segment in segments),
            boxes=tuple(tuple(float(value) for value in segment["bbox"]) for segment in segments),
            categories=tuple(int(segment["category_id"]) for segment in segments),
            is_thing=tuple(things[segment["category_id"]] for segment in segments),
            is_crowd=tuple(bool(segment.get("iscrowd", 0)) for segment in segments),
        )
    except (KeyError, TypeError, ValueError) as error:
        shown = entry.get("file_name", "?") if isinstance(entry, dict) else entry
        raise DataError(f"{file}: the annotation of {shown!r} has no usable {error}") from error
    if len(set(item.ids)) != len(item.ids) or any(len(box) != 4 for box in item.boxes) or 0 in item.ids:
        raise DataError(f"{file}: the segments of {name!r} have repeated ids, id 0, or boxes without four numbers")
    return item


def _sample(item: Item) -> Packed:
    """Read, check and encode one image."""
    try:
        image = item.image.read_bytes()
        encoded = item.label.read_bytes()
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    pixels, label = decode_image(image), decode_image(encoded)
    for path, array in ((item.image, pixels), (item.label, label)):
        if array is None:
            raise DataError(f"{path} cannot be decoded; download it again")
    height, width = label.shape[:2]
    if pixels.shape != label.shape:
        raise DataError(f"{item.image} has {pixels.shape[1]}x{pixels.shape[0]} pixels, {item.label} {width}x{height}")
    red, green, blue = np.moveaxis(label.astype(np.int32), 2, 0)
    colour = red + 256 * green + 65536 * blue  # h w
    found, segment = compact(colour)
    if tuple(found) != item.ids:
        only = sorted(set(found.tolist()) ^ set(item.ids))
        raise DataError(f"{item.label}: its ids and those of the JSON differ in {only[:5]}")
    boxes = np.array(item.boxes, np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    record = {
        "image": image,
        "segment": segment,
        "box": (boxes / [width, height, width, height]).astype(np.float32),
        "category": np.array(item.categories, np.uint8 if max(item.categories, default=0) < 256 else np.int32),
        "is_thing": np.array(item.is_thing, bool),
        "is_crowd": np.array(item.is_crowd, bool),
        "source_id": item.label.stem,
    }
    return pack(record)


def compact(colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the non-zero ids of a label map 1..n, rising.

    Args:
        colour: (h w) int32, ids, 0 = unlabelled.

    Returns:
        ids: (n) int32, those found, rising.
        segment: (h w) uint8, or uint16 or uint32 if n needs it.
    """
    # neighbours are mostly equal: only the first pixel of a run has to be looked up
    flat = colour.ravel()
    first = np.flatnonzero(np.diff(flat, prepend=flat[0] - 1))
    ids, ranks = np.unique(flat[first], return_inverse=True)
    unlabelled = int(len(ids) > 0 and ids[0] == 0)
    ranks = (ranks + (1 - unlabelled)).astype(np.min_scalar_type(len(ids)))
    segment = np.repeat(ranks, np.diff(first, append=len(flat)))
    return ids[unlabelled:], segment.reshape(colour.shape)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}; see: python convert.py coco --help") from error
    except ValueError as error:
        raise DataError(f"{file} is no valid JSON ({error}); download it again") from error


def _there(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is no folder. "
    names = sorted(path.name for path in folder.iterdir())
    return f"{folder} holds {', '.join(names[:8]) or 'nothing'}{' ...' if len(names) > 8 else ''}. "
