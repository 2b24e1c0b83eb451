"""COCO 2017 with panoptic segmentations: the converter and the dataset."""

import functools
import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import ijson
import numpy as np
import torch
from torch import Tensor

from ..registry import register
from . import conversion, source
from .dataset import Dataset, Sample, decode_label
from .record import DataError, Packed, pack
from .source import compact

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
OFFICIAL = {"train": 118287, "val": 5000}


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
        semantic: (h w) uint8; category id of each segment's pixels, 0 where `segment` is 0.
        unlabelled: (h w) bool; pixels of neither a thing nor stuff. Not in files that hold things only.
        crowd: (h w) bool; pixels of groups of things. Not in published files.
    Those with n rows need `segment` in `keys` too: rows whose segment the transforms removed are dropped. A batch pads
    them with zero rows.

    Args: see `Dataset`.
        instance: things only are segments; stuff becomes background after the transforms. False keeps both.

    Raises:
        DataError: see `Dataset`; or the file lacks a key, or holds things only although `instance` is False.
    """

    store = "coco"
    command = "python convert.py coco --src_dir RAW --dst_dir OUT"
    rows = ("box", "category", "is_thing", "is_crowd")
    derived: ClassVar[dict[str, tuple[str, ...]]] = {
        "semantic": ("segment", "category", "is_thing"),
        "unlabelled": ("segment", "is_thing"),
        "crowd": ("segment", "is_crowd"),
    }
    offered = ("image", "segment", *rows, *derived)
    regions: ClassVar[dict[str, str]] = {"unlabelled": "unlabelled", "crowd": "crowd"}
    without: ClassVar[dict[str, str]] = {
        "border": "none: COCO draws no borders",
        "overlap": "none: panoptic segments do not overlap",
    }
    class_map = "semantic"
    published_names: ClassVar[dict[str, str]] = {"image": "image", "box": "bbox", "category": "clazz"}

    def __init__(
        self,
        file: str,
        keys: list[str],
        transforms: list | None = None,
        instance: bool = True,
        data_dir: str = ".",
    ):
        self.instance = instance
        self.needed = ("is_thing",) if "segment" in keys else ()
        super().__init__(file, keys, transforms, data_dir)
        first = self.reader.read(0, ["isthing"]) if self.reader.published else {}
        things_only = self.reader.header.attributes.get("things_only", self.reader.published and not first)
        if things_only and not instance:
            raise DataError(f"{self.file} holds things only: use instance=True, or make it again: {self.command}")
        if things_only and "unlabelled" in keys:
            raise DataError(
                f"{self.file} holds things only, so nothing tells 'unlabelled' pixels from stuff; "
                f"make it again: {self.command}"
            )

    @classmethod
    def recognises(cls, stored: dict[str, Any]) -> bool:
        """Return whether a published record is one of this dataset."""
        return {"image", "segment", "clazz"} <= stored.keys()

    def translate(self, stored: dict[str, Any], keys: Collection[str], where: str) -> dict[str, Any]:
        """See `Dataset`. Files of late 2025 hold things only, under ids with gaps, and no `isthing`."""
        record = {key: stored[name] for key, name in self.published_names.items() if name in stored and key in keys}
        if not {"segment", "is_thing"} & set(keys):
            return record
        segment = decode_label(stored["segment"], where)
        if "isthing" in stored:
            record["is_thing"] = stored["isthing"]
        else:
            found, segment = compact(segment)
            record["is_thing"] = np.ones(len(found), bool)
        if len(stored["clazz"]) != len(record["is_thing"]):
            raise DataError(
                f"{where}: {len(record['is_thing'])} segments and {len(stored['clazz'])} categories; "
                "the file is damaged, download it again"
            )
        if "segment" in keys:
            record["segment"] = segment
        return record

    def finish(self, sample: Sample) -> Sample:
        """Make stuff background if wanted, renumber the segments that are left, drop the rows of the others."""
        maps = {key: self.derive(key, sample) for key in self.derived if key in self.keys}
        return self.renumbered(sample, sample.get("is_thing") if self.instance else None) | maps

    def derive(self, key: str, sample: Sample) -> Tensor:
        """Return a map made of the stored segments and what is known of each."""
        segment = sample["segment"]
        if key == "unlabelled":
            return segment == 0
        if key == "crowd":
            row = sample["is_crowd"]
        else:
            row = sample["category"].to(torch.uint8)
            row = torch.where(sample["is_thing"], row, 0) if self.instance else row
        lookup = torch.cat([row.new_zeros(1), row])
        if int(segment.max()) >= len(lookup):
            raise DataError(f"{self.file}: a label map has segment {int(segment.max())}, known are 1..{len(row)}")
        return torch.from_numpy(lookup.numpy().take(segment.numpy()))


# -------------------------------------------------------------------------------------------------------- conversion


def convert(
    src_dir: str | Path,
    dst_dir: str | Path,
    split: tuple[str, ...] = ("train", "val"),
    workers: int = 0,
    limit: int | None = None,
    force: bool = False,
    skip_bad: bool = False,
    pixels: bool = False,
) -> None:
    """Convert COCO 2017 panoptic to `dst_dir/train.lmdb` and `dst_dir/val.lmdb`.

    Args:
        src_dir: folder with the unpacked download.
        dst_dir: folder to write to, made if missing.
        split: which of train and val.
        workers: processes; 0 converts here. The files are the same.
        limit: convert only that many images of each split.
        force: start from nothing and replace existing files.
        skip_bad: leave out images with missing or damaged files or annotations, and list them.
        pixels: store pictures decoded, for faster reading; takes five times the room.

    Raises:
        DataError: the source is not what it must be, or a file cannot be written.
    """
    conversion.check(split, tuple(OFFICIAL), limit)
    src_dir = Path(src_dir)
    jobs = {name: functools.partial(list_split, src_dir, name, limit, skip_bad) for name in split}
    conversion.run(COCO.store, dst_dir, jobs, workers=workers, force=force, skip_bad=skip_bad, pixels=pixels)


@dataclass(frozen=True)
class Item:
    """An annotated image: where it lies, and a row per segment in rising order of the ids."""

    image: Path
    label: Path
    rows: bytes  # id, category, thing, crowd, left, top, width, height: float64; compact, for all of COCO is listed

    def table(self) -> np.ndarray:
        """Return the rows, (n 8) float64."""
        return np.frombuffer(self.rows).reshape(-1, 8)


def list_split(src_dir: Path, split: str, limit: int | None, skip_bad: bool) -> conversion.Job:
    """Return what a split's JSON lists, in its order, after checking it against the folders.

    Raises:
        DataError: something is missing or inconsistent, and named.
    """
    images = source.expect_folder(src_dir / f"{split}2017", "coco")
    labels = source.expect_folder(src_dir / "annotations" / f"panoptic_{split}2017", "coco")
    file = source.expect_file(labels.with_suffix(".json"), "coco")
    things = read_categories(src_dir)
    items, bad, seen = [], [], set()
    for entry in itertools.islice(read_annotations(file), limit):
        try:
            item = read_item(entry, images, labels, things, file)
        except DataError as error:
            bad.append(str(error))
            continue
        if item.label in seen:
            bad.append(f"{file} lists {item.label.name} twice; download it again")
            continue
        seen.add(item.label)
        items.append(item)
    if not items and not bad:
        raise DataError(f"{file} lists no annotation; download it again")
    missing = set(source.missing_files(path for item in items for path in (item.image, item.label)))
    bad += [f"{path} is missing" for path in sorted(missing)]
    return conversion.Job(
        items=[item for item in items if item.image not in missing and item.label not in missing],
        sample=make_sample,
        files=item_files,
        attributes={"source": "COCO 2017 panoptic", "split": split, "limit": limit},
        official=OFFICIAL[split] if limit is None else None,
        bad=source.report(bad, skip_bad, f"{file} and its pictures"),
    )


def read_categories(src_dir: Path) -> dict[int, bool]:
    """Return whether each category id is a thing.

    Raises:
        DataError: the file is missing or not what it should be.
    """
    files = [src_dir / "annotations" / CATEGORIES, src_dir / CATEGORIES]
    file = next((file for file in files if file.is_file()), files[0])
    content = source.read_json(source.expect_file(file, "coco"))
    try:
        things = {int(entry["id"]): bool(entry["isthing"]) for entry in content}
        if len(things) != len(content):
            raise ValueError("an id is listed twice")
        return things
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} is not COCO's list of categories: {error!r}; download it again") from error


def read_annotations(file: Path) -> Iterator[Any]:
    """Yield the annotations of a panoptic JSON, one at a time: the file is larger than one wants in memory.

    Raises:
        DataError: it cannot be read or is no JSON.
    """
    try:
        with file.open("rb") as stream:
            yield from ijson.items(stream, "annotations.item", use_float=True)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except ijson.JSONError as error:
        raise DataError(f"{file} is no valid JSON ({error}); download it again") from error


def read_item(entry: Any, images: Path, labels: Path, things: dict[int, bool], file: Path) -> Item:
    """Return what an annotation says.

    Raises:
        DataError: it lacks something, has an unknown category, or repeats an id.
    """
    try:
        name = Path(entry["file_name"]).name
        rows = []
        for segment in sorted(entry["segments_info"], key=lambda segment: segment["id"]):
            category = segment["category_id"]
            if category not in things:
                raise DataError(f"{file}: {name} has a segment of category {category}, not listed in {CATEGORIES}")
            left, top, width, height = segment["bbox"]
            crowd = segment.get("iscrowd", 0)
            rows.append((segment["id"], category, things[category], crowd, left, top, width, height))
        table = np.array(rows, np.float64).reshape(-1, 8)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        shown = entry.get("file_name", "?") if isinstance(entry, dict) else entry
        fault = f"lacks {error}" if isinstance(error, KeyError) else f"is malformed ({error})"
        raise DataError(f"{file}: the annotation of {shown!r} {fault}; download it again") from error
    ids = table[:, 0]
    if (np.diff(ids) <= 0).any() or (ids <= 0).any() or not np.isfinite(table).all():
        raise DataError(f"{file}: the segments of {name} have repeated ids, id 0, or numbers that are none")
    return Item(images / Path(name).with_suffix(".jpg"), labels / name, table.tobytes())


def item_files(item: Item) -> tuple[Path, Path]:
    """Return the files that an item is read from."""
    return item.image, item.label


def make_sample(item: Item, pixels: bool = False) -> Packed:
    """Read, check and encode one image; `pixels` stores its picture decoded.

    Raises:
        DataError: a file cannot be read or decoded, or does not go with the other or with the JSON.
    """
    image = item.image.read_bytes()
    size = source.check_image(image, item.image)
    colours = source.decode_colours(item.label.read_bytes(), item.label)
    height, width = colours.shape
    if size != (height, width):
        raise DataError(f"{item.image} has {size[1]}x{size[0]} pixels, {item.label} {width}x{height}")
    ids, segment = source.compact(colours)
    table = item.table()
    if not np.array_equal(ids, table[:, 0]):
        only = sorted(set(ids.tolist()) ^ set(table[:, 0].astype(int).tolist()))
        raise DataError(f"{item.label}: its ids and those of the JSON differ in {only[:5]}")
    boxes = table[:, 4:].copy()
    boxes[:, 2:] += boxes[:, :2]
    if (boxes[:, :2] < -1).any() or (boxes[:, 2:] > [width + 1, height + 1]).any() or (table[:, 6:] < 0).any():
        raise DataError(f"{item.label}: the JSON has a box outside of its {width}x{height} pixels; download it again")
    categories = table[:, 1].astype(np.int64)
    record = {
        "image": source.stored_picture(image, item.image, pixels),
        "segment": segment,
        "box": (boxes / [width, height, width, height]).astype(np.float32),
        "category": categories.astype(np.uint8 if categories.max(initial=0) < 256 else np.int32),
        "is_thing": table[:, 2].astype(bool),
        "is_crowd": table[:, 3].astype(bool),
        "source_id": item.label.stem,
    }
    return pack(record)
