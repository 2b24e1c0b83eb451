"""ClevrTex: the converter and the dataset."""

import functools
import io
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from ..registry import register
from . import conversion, source
from .dataset import RENDERED, Dataset, decode_label
from .palette import decode_objects
from .record import DataError, Packed, pack

SOURCE = """\
Download from https://www.robots.ox.ac.uk/~vgg/data/clevrtex and unpack below one folder:
  clevrtex_full_part1.tar.gz ... clevrtex_full_part5.tar.gz   5 x 4.7 GB
    (pieces of one archive: cat clevrtex_full_part?.tar.gz | tar xz)
  clevrtex_outd.tar.gz                                            5.3 GB
so that --src_dir holds
  clevrtex_full/0/ ... clevrtex_full/49/    clevrtex_outd/0/ ... clevrtex_outd/9/
with, for each scene such as CLEVRTEX_full_012345,
  CLEVRTEX_full_012345.png   CLEVRTEX_full_012345_flat.png   CLEVRTEX_full_012345_depth_0001.png
(its other files are not read). The further variants are folders of the same kind: clevrtex_camo,
clevrtex_vbg, clevrtex_pbg, clevrtex_grassbg.
"""

Variant = Literal["full", "outd", "camo", "vbg", "pbg", "grassbg"]
Division = Literal["reference", "official"]
Split = Literal["train", "val", "test"]
SUFFIXES = (".png", "_flat.png", "_depth_0001.png")
COUNTS = {"full": 50000, "outd": 10000}  # scenes of the official download
MOST_OBJECTS = 50  # more than the 10 of a scene, fewer than the shades of a picture
PARTS = {"test": (0, 10), "val": (10, 20), "train": (20, 100)}  # of `full`, %


@register
class ClevrTex(Dataset):
    """ClevrTex, from our files or the published ones.

    Keys:
        image: (c h w) uint8, RGB.
        segment: (h w) uint8; 0 = background, objects are 1..n.
        depth: (h w) uint8, Blender's mist: rises with the distance, in no unit.

    Args: see `Dataset`.

    Raises:
        DataError: see `Dataset`.
    """

    store = "clevrtex"
    command = "python convert.py clevrtex --src_dir RAW --dst_dir OUT"
    without = RENDERED
    offered = ("image", "segment", "depth")

    def __init__(self, file: str, keys: list[str], transforms: list | None = None, data_dir: str = "."):
        super().__init__(file, keys, transforms, data_dir)

    @classmethod
    def recognises(cls, stored: dict[str, Any]) -> bool:
        """Return whether a published record is one of this dataset."""
        return {"image", "segment", "depth"} <= stored.keys()

    def translate(self, stored: dict[str, Any], keys: Collection[str], where: str) -> dict[str, Any]:
        """See `Dataset`. Label maps and depth are WebP in files of 2025, PNG in those of 2026."""
        record = {"image": stored["image"]} if "image" in keys else {}
        return record | {key: decode_label(stored[key], where) for key in ("segment", "depth") if key in keys}

    def entry(self, key: str, value: Any, index: int) -> Any:
        """Decode one entry of a record."""
        if key == "depth" and isinstance(value, bytes):
            value = decode_label(value, f"{self.file}, sample {index}")
        return super().entry(key, value, index)


# -------------------------------------------------------------------------------------------------------- conversion


def convert(
    src_dir: str | Path,
    dst_dir: str | Path,
    split: tuple[Split, ...] = ("train", "val"),
    clevrtex_split: Division = "reference",
    train_variant: Variant = "full",
    val_variant: Variant = "outd",
    workers: int = 0,
    limit: int | None = None,
    force: bool = False,
    skip_bad: bool = False,
    pixels: bool = False,
) -> None:
    """Convert ClevrTex to `dst_dir/train.lmdb` and `dst_dir/val.lmdb`.

    The reference trains on all scenes of `full`, those of the official test and validation splits included, and
    validates on all of `outd`, whose shapes and materials are others.

    Args:
        src_dir: folder with the unpacked download.
        dst_dir: folder to write to, made if missing.
        split: which of train, val and, with the official split, test.
        clevrtex_split: reference (train: all of full, val: all of outd), or official (full alone, by scene number: 10 %
            test, then 10 % val, then train).
        train_variant: with the reference split, what to train on.
        val_variant: with the reference split, what to validate on.
        workers: processes; 0 converts here. The files are the same.
        limit: convert only that many scenes of each split.
        force: start from nothing and replace existing files.
        skip_bad: leave out scenes with missing or damaged files, and list them.
        pixels: store pictures decoded, for faster reading; takes twice the room.

    Raises:
        DataError: the source is not what it must be, or a file cannot be written.
    """
    if clevrtex_split not in get_args(Division):
        raise DataError(f"clevrtex_split is {clevrtex_split!r}; known are {', '.join(get_args(Division))}")
    official = clevrtex_split == "official"
    if official and (train_variant, val_variant) != ("full", "outd"):
        raise DataError("--clevrtex_split official divides the variant full; leave out --train_variant, --val_variant")
    variants = dict.fromkeys(PARTS, "full") if official else {"train": train_variant, "val": val_variant}
    conversion.check(split, tuple(variants), limit)
    jobs = {
        name: functools.partial(list_split, Path(src_dir), name, variants[name], clevrtex_split, limit, skip_bad)
        for name in split
    }
    conversion.run(ClevrTex.store, dst_dir, jobs, workers=workers, force=force, skip_bad=skip_bad, pixels=pixels)


def list_split(
    src_dir: Path, split: str, variant: str, clevrtex_split: str, limit: int | None, skip_bad: bool
) -> conversion.Job:
    """Return the scenes of a split in the order of their numbers, after checking that their files are there.

    Raises:
        DataError: something is missing, and named.
    """
    folder = source.expect_folder(src_dir / f"clevrtex_{variant}", "clevrtex")
    scenes, count = list_scenes(folder, variant), COUNTS.get(variant)
    first, last = PARTS[split] if clevrtex_split == "official" else (0, 100)
    scenes = scenes[len(scenes) * first // 100 : len(scenes) * last // 100][:limit]
    if not scenes:
        raise DataError(f"{folder} holds too few scenes for the split {split}")
    missing = set(source.missing_files(file for scene in scenes for file in scene_files(scene)))
    lacking = {scene: [str(file) for file in scene_files(scene) if file in missing] for scene in scenes}
    bad = [f"missing: {', '.join(files)}" for files in lacking.values() if files]
    return conversion.Job(
        items=[scene for scene in scenes if not lacking[scene]],
        sample=make_sample,
        files=scene_files,
        attributes={"source": f"ClevrTex {variant}", "split": split, "clevrtex_split": clevrtex_split, "limit": limit},
        official=count * (last - first) // 100 if count and limit is None else None,
        bad=source.report(bad, skip_bad, str(folder)),
    )


def list_scenes(folder: Path, variant: str) -> list[Path]:
    """Return the scenes of which a file that we need lies in a folder or below, by number: paths without a suffix.

    Raises:
        DataError: there is none, or one lies there twice.
    """
    pattern = re.compile(f"(CLEVRTEX_{variant}_[0-9]{{6}})({'|'.join(map(re.escape, SUFFIXES))})")
    found: dict[str, str] = {}  # name -> folder
    for parent, _, names in os.walk(folder):
        for scene in {match[1] for match in map(pattern.fullmatch, names) if match}:
            if found.setdefault(scene, parent) != parent:
                raise DataError(f"{scene} lies in {found[scene]} and in {parent}; was the archive unpacked twice?")
    if not found:
        raise DataError(
            f"{folder} holds no CLEVRTEX_{variant}_<6 digits>.png. {source.there(folder)}{source.see('clevrtex')}"
        )
    return [Path(found[scene], scene) for scene in sorted(found)]


def scene_files(scene: Path) -> tuple[Path, ...]:
    """Return image, label map and depth of a scene."""
    return tuple(scene.with_name(scene.name + suffix) for suffix in SUFFIXES)


def make_sample(scene: Path, pixels: bool = False) -> Packed:
    """Read, check and encode one scene; `pixels` stores its picture decoded.

    Raises:
        DataError: a file cannot be read or decoded, or the sizes differ.
    """
    files = scene_files(scene)
    image, flat, depth = (file.read_bytes() for file in files)
    source.check_png(image, files[0])
    segment = decode_objects(flat, files[1])
    if segment.max() > MOST_OBJECTS:
        raise DataError(f"{files[1]} holds {segment.max()} objects, a scene has at most 10: is it another picture?")
    stored_depth, depth_size = check_depth(depth, files[2])
    sizes = (source.check_image(image, files[0]), segment.shape, depth_size)
    for file, size in zip(files[1:], sizes[1:], strict=True):
        if size != sizes[0]:
            raise DataError(f"{files[0]} has {sizes[0][1]}x{sizes[0][0]} pixels, {file} {size[1]}x{size[0]}")
    stored = source.stored_picture(image, files[0], pixels)
    return pack({"image": stored, "segment": segment, "depth": stored_depth, "source_id": scene.name})


def check_depth(encoded: bytes, file: Path) -> tuple[bytes | np.ndarray, tuple[int, int]]:
    """Return a depth picture as it is to be stored, and its height and width.

    Returns:
        encoded: its bytes if it has one channel, else the first one, (h w) uint8.
        size: height and width.

    Raises:
        DataError: it cannot be decoded, or its channels are not of 8 bits.
    """
    source.check_png(encoded, file)
    size = source.check_image(encoded, file)
    with Image.open(io.BytesIO(encoded)) as picture:
        if picture.mode == "L":
            return encoded, size
        if picture.mode not in ("LA", "RGB", "RGBA"):
            raise DataError(f"{file} has mode {picture.mode}, expected is an 8-bit grey PNG; download it again")
        return np.array(picture.getchannel(0)), size
