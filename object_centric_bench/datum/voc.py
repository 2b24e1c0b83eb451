"""PASCAL VOC with object segmentations: the converter and the dataset."""

import functools
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import cv2
import numpy as np

from ..registry import register
from . import conversion, source
from .dataset import Dataset, decode_label
from .palette import decode_palette, number_objects
from .record import DataError, Packed, pack

log = logging.getLogger(__name__)

SOURCE = """\
Download and unpack below one folder:
  http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar     2.0 GB
  http://host.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtrainval_06-Nov-2007.tar     460 MB
    (not needed with --voc_split official)
so that --src_dir holds
  VOCdevkit/VOC2012/JPEGImages/*.jpg          VOCdevkit/VOC2007/JPEGImages/*.jpg
  VOCdevkit/VOC2012/SegmentationObject/*.png  VOCdevkit/VOC2007/SegmentationObject/*.png
  VOCdevkit/VOC2012/SegmentationClass/*.png   VOCdevkit/VOC2007/SegmentationClass/*.png
  VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt, val.txt
"""

Division = Literal["reference", "official"]
Split = Literal["train", "val"]
BORDER = 255  # palette index, in both kinds of label pictures
NUM_CLASSES = 20
YEARS = {"train": "VOC2012", "val": "VOC2007"}  # of the reference's splits
COUNTS = {
    ("reference", "train"): (2913,),
    ("reference", "val"): (422, 632),  # the latter if the test archive of 2007 was unpacked too
    ("official", "train"): (1464,),
    ("official", "val"): (1449,),
}
LABELS = ("merged", "border0")
TRIED = 8  # records looked at to tell a border from a background


@register
class VOC(Dataset):
    """PASCAL VOC's segmented images, from our files or the published ones.

    Keys:
        image: (c h w) uint8, RGB.
        segment: (h w) uint8; 0 = background and border, objects are 1..n.
        ignore: (h w) bool; the border around objects, and what was too hard to label: no score should count it.
        semantic: (h w) uint8; 0 = background and border, classes are 1..20 in alphabetical order (aeroplane is 1).
        category: (n) int64; class of each object, row k belongs to segment k + 1; 0 if none was labelled. Needs
            `segment` in `keys` too: rows whose segment the transforms removed are dropped. A batch pads with 0.
    Published files have image and segment, and with border0 also ignore.

    Args: see `Dataset`.
        labels: for published files only, what their label maps hold: merged (files of 2025), 0 = background and border;
            or border0 (files of 2026), 0 = border, 1 = background, then the objects. Nothing in a file tells.

    Raises:
        DataError: see `Dataset`; or `labels` is missing, unknown, or given for a file of ours.
    """

    store = "voc"
    command = "python convert.py voc --src_dir RAW --dst_dir OUT"
    rows = ("category",)
    offered = ("image", "segment", "ignore", "semantic", *rows)
    regions: ClassVar[dict[str, str]] = {"border": "ignore", "unlabelled": "ignore"}
    without: ClassVar[dict[str, str]] = {
        "crowd": "none: every object has a segment of its own",
        "overlap": "none: VOC's segments do not overlap",
    }
    class_map = "semantic"

    def __init__(
        self,
        file: str,
        keys: list[str],
        transforms: list | None = None,
        labels: str | None = None,
        data_dir: str = ".",
    ):
        if labels is not None and labels not in LABELS:
            raise DataError(f"VOC: labels is {labels!r}; known are {', '.join(LABELS)}")
        self.labels = labels
        super().__init__(file, keys, transforms, data_dir)
        if labels is not None and not self.reader.published:
            raise DataError(f"{self.file} is in our format and says itself what it holds: leave out labels={labels!r}")

    @classmethod
    def recognises(cls, stored: dict[str, Any]) -> bool:
        """Return whether a published record is one of this dataset."""
        return stored.keys() == {"image", "segment"}

    def check_published(self) -> None:
        """See `Dataset`; also look whether `labels` can be true."""
        super().check_published()
        if self.labels is None:
            return
        thin = self.is_zero_thin()
        if self.labels == "merged" and thin:
            log.warning(
                "%s: label 0 covers only thin lines, as borders do: labels=border0 seems to be right", self.file
            )
        if self.labels == "border0" and thin is False:
            log.warning(
                "%s: label 0 covers wide regions, as background does: labels=merged seems to be right", self.file
            )

    def is_zero_thin(self) -> bool | None:
        """Return whether most pixels of label 0 in the first records vanish by erosion; None if there are none."""
        before = after = 0
        for index in range(min(TRIED, len(self))):
            stored = self.reader.read(index, ["segment"])
            zero = (decode_label(stored["segment"], f"{self.file}, sample {index}") == 0).astype(np.uint8)
            side = max(3, min(zero.shape) // 40 | 1)  # VOC's border is 5 pixels wide, its pictures are about 375 high
            before += int(zero.sum())
            after += int(cv2.erode(zero, np.ones((side, side), np.uint8)).sum())
        return 2 * after < before if before else None

    def translate(self, stored: dict[str, Any], keys: Collection[str], where: str) -> dict[str, Any]:
        """See `Dataset`. Label maps are WebP, or in late files of 2026 PNG."""
        record = {"image": stored["image"]} if "image" in keys else {}
        if not {"segment", "ignore"} & set(keys):
            return record
        if self.labels is None:
            raise DataError(
                f"{self.file} is a published file, which does not tell what its label 0 means. "
                "Say labels=merged (files of 2025: 0 = background and border) or labels=border0 (files of 2026: "
                f"0 = border, 1 = background); or make the file: {self.command}"
            )
        label = decode_label(stored["segment"], where)
        if "segment" in keys:
            record["segment"] = label if self.labels == "merged" else label - (label > 0)
        if "ignore" in keys and self.labels == "border0":
            record["ignore"] = label == 0
        return record


# -------------------------------------------------------------------------------------------------------- conversion


def convert(
    src_dir: str | Path,
    dst_dir: str | Path,
    split: tuple[Split, ...] = ("train", "val"),
    voc_split: Division = "reference",
    workers: int = 0,
    limit: int | None = None,
    force: bool = False,
    skip_bad: bool = False,
    pixels: bool = False,
) -> None:
    """Convert PASCAL VOC to `dst_dir/train.lmdb` and `dst_dir/val.lmdb`.

    Args:
        src_dir: folder with the unpacked download, or VOCdevkit itself.
        dst_dir: folder to write to, made if missing.
        split: which of train and val.
        voc_split: reference (train: all that is segmented in VOC2012, val: in VOC2007, which is a part of it), or
            official (VOC2012's train and val lists, which share no image).
        workers: processes; 0 converts here. The files are the same.
        limit: convert only that many images of each split.
        force: start from nothing and replace existing files.
        skip_bad: leave out images with missing or damaged files, and list them.
        pixels: store pictures decoded, for faster reading; takes four times the room.

    Raises:
        DataError: the source is not what it must be, or a file cannot be written.
    """
    if voc_split not in get_args(Division):
        raise DataError(f"voc_split is {voc_split!r}; known are {', '.join(get_args(Division))}")
    conversion.check(split, tuple(YEARS), limit)
    src_dir = Path(src_dir)
    root = src_dir / "VOCdevkit" if (src_dir / "VOCdevkit").is_dir() else src_dir
    jobs = {name: functools.partial(list_split, root, name, voc_split, limit, skip_bad) for name in split}
    conversion.run(VOC.store, dst_dir, jobs, workers=workers, force=force, skip_bad=skip_bad, pixels=pixels)


@dataclass(frozen=True)
class Item:
    """A segmented image: the folder of its year, and its name."""

    folder: Path
    name: str

    def files(self) -> tuple[Path, Path, Path]:
        """Return image, objects and classes."""
        return (
            self.folder / "JPEGImages" / f"{self.name}.jpg",
            self.folder / "SegmentationObject" / f"{self.name}.png",
            self.folder / "SegmentationClass" / f"{self.name}.png",
        )


def list_split(root: Path, split: str, voc_split: str, limit: int | None, skip_bad: bool) -> conversion.Job:
    """Return the images of a split, after checking that their files are there.

    Raises:
        DataError: something is missing, and named.
    """
    attributes = {"source": "PASCAL VOC 2012", "split": split, "voc_split": voc_split, "limit": limit}
    if voc_split == "official":
        folder = source.expect_folder(root / "VOC2012", "voc")
        names = read_names(folder / "ImageSets" / "Segmentation" / f"{split}.txt")
    else:
        folder = source.expect_folder(root / YEARS[split], "voc")
        names = list_names(folder)
        attributes["source"] = "PASCAL VOC " + folder.name.removeprefix("VOC")
        if split == "val":
            attributes["in_train"] = count_leaked(root, names)
    for kind in ("JPEGImages", "SegmentationObject", "SegmentationClass"):
        source.expect_folder(folder / kind, "voc")
    items = [Item(folder, name) for name in names[:limit]]
    missing = set(source.missing_files(file for item in items for file in item.files()))
    lacking = {item: [str(file) for file in item.files() if file in missing] for item in items}
    bad = [f"missing: {', '.join(files)}" for files in lacking.values() if files]
    counts = COUNTS[voc_split, split]
    return conversion.Job(
        items=[item for item in items if not lacking[item]],
        sample=make_sample,
        files=Item.files,
        attributes=attributes,
        official=None if limit is not None or len(names) in counts else counts[0],
        bad=source.report(bad, skip_bad, str(folder)),
    )


def read_names(file: Path) -> list[str]:
    """Return the names that a list of VOC holds, one a line.

    Raises:
        DataError: the file is missing or holds none.
    """
    lines = source.expect_file(file, "voc").read_text(errors="replace").splitlines()
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise DataError(f"{file} lists no image; download it again")
    return names


def list_names(folder: Path) -> list[str]:
    """Return the names of all that is segmented in a year's folder, sorted.

    Raises:
        DataError: that is nothing.
    """
    objects = source.expect_folder(folder / "SegmentationObject", "voc")
    names = sorted(file.stem for file in objects.iterdir() if file.suffix == ".png")
    if not names:
        raise DataError(f"{objects} holds no PNG. {source.there(objects)}{source.see('voc')}")
    return names


def count_leaked(root: Path, names: list[str]) -> int | None:
    """Return how many of VOC2007's names are in VOC2012 too, and warn; None if that folder is missing.

    VOC2012 holds the trainval images of 2007 under their names with 2007_ before.
    """
    folder = root / YEARS["train"] / "SegmentationObject"
    count = None
    if folder.is_dir():
        count = len({f"2007_{name}" for name in names} & {file.stem for file in folder.iterdir()})
    log.warning(
        "VOC: this split is the reference's, good only to compare with its numbers, because it leaks: of %d validation "
        "images %s are training images too (000032 of VOC2007 is 2007_000032 of VOC2012). For clean numbers: "
        "--voc_split official",
        len(names),
        "an unknown number" if count is None else count,
    )
    return count


def make_sample(item: Item, pixels: bool = False) -> Packed:
    """Read, check and encode one image; `pixels` stores its picture decoded.

    Raises:
        DataError: a file cannot be read or decoded, or the sizes differ, or a class is unknown.
    """
    files = item.files()
    image, objects, classes = (file.read_bytes() for file in files)
    size = source.check_image(image, files[0])
    index, colours = decode_palette(objects, files[1])
    semantic, _ = decode_palette(classes, files[2])
    for file, label in ((files[1], index), (files[2], semantic)):
        if label.shape != size:
            height, width = label.shape
            raise DataError(f"{files[0]} has {size[1]}x{size[0]} pixels, {file} {width}x{height}")
    ignore = (index == BORDER) | (semantic == BORDER)
    semantic = np.where(semantic == BORDER, np.uint8(0), semantic)
    if semantic.max() > NUM_CLASSES:
        raise DataError(f"{files[2]} holds class {semantic.max()}, known are 1..{NUM_CLASSES}; download it again")
    segment = number_objects(np.where(index == BORDER, np.uint8(0), index), colours)
    record = {
        "image": source.stored_picture(image, files[0], pixels),
        "segment": segment,
        "ignore": ignore,
        "semantic": semantic,
        "category": find_categories(segment, semantic),
        "source_id": item.name,
    }
    return pack(record)


def find_categories(segment: np.ndarray, semantic: np.ndarray) -> np.ndarray:
    """Return the class that most pixels of each object have.

    Args:
        segment: (h w) uint8, objects are 1..n.
        semantic: (h w) uint8, classes are 1..20; 0 is not counted.

    Returns:
        (n) uint8; 0 for an object without a pixel of a class.
    """
    num_objects = int(segment.max())
    pairs = segment.astype(np.int64) * (NUM_CLASSES + 1) + semantic
    counts = np.bincount(pairs.ravel(), minlength=(num_objects + 1) * (NUM_CLASSES + 1))
    counts = counts.reshape(-1, NUM_CLASSES + 1)[1:, 1:]
    return np.where(counts.any(axis=1), counts.argmax(axis=1) + 1, 0).astype(np.uint8)
