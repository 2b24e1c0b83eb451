"""MOVi as the official download holds it: TFRecord files of TensorFlow Datasets, to records of ours."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from . import conversion, source, tfrecord
from .flow import LEVELS, encode_flow
from .record import DataError, Packed, pack
from .source import SHOWN

TFDS_SPLIT = {"train": "train", "val": "validation"}
OFFICIAL = {"movi_a": 9703, "movi_c": 9737, "movi_e": 9749}  # of train; those of the others are not known to us
OFFICIAL_VALIDATION = 250
SHARD = re.compile(r"(?P<name>.+)-(?P<split>train|validation|test)\.tfrecord-(?P<number>\d{5})-of-(?P<count>\d{5})")
FLOWS = ("backward_flow", "forward_flow")
RANGES = ("backward_flow_range", "forward_flow_range", "depth_range")
NEEDED = (
    "video", "segmentations", "depth", *FLOWS, "instances/bboxes", "instances/bbox_frames", "instances/visibility",
    "metadata/video_name", *(f"metadata/{name}" for name in RANGES),
)  # fmt: skip
GREY, COLOUR = 0, 2  # PNG colour types


@dataclass(frozen=True)
class Item:
    """A scene: where its record lies."""

    file: Path
    offset: int
    length: int


# ---------------------------------------------------------------------------------------------------------- the folder


def list_split(src_dir: Path, split: str, limit: int | None, skip_bad: bool) -> conversion.Job:
    """Return where the scenes of a split lie, in the order of the files.

    Raises:
        DataError: there is no such folder or more than one; files or features are missing; a file is damaged.
    """
    folder = find_folder(src_dir)
    name, shards = list_shards(folder, TFDS_SPLIT[split])
    size = check_features(folder)
    lengths = shard_lengths(folder, TFDS_SPLIT[split], len(shards))
    items: list[Item] = []
    bad: list[str] = []
    for shard, expected in zip(shards, lengths, strict=True):
        before = len(items)
        try:
            source.expect_file(shard, "movi")
            for offset, length in tfrecord.walk(shard):
                if len(items) == limit:
                    break
                items.append(Item(shard, offset, length))
            if expected not in (None, len(items) - before) and len(items) != limit:
                raise DataError(
                    f"{shard} holds {len(items) - before} scenes, dataset_info.json says {expected}; "
                    "download both again"
                )
        except DataError as error:
            bad.append(str(error))
        if len(items) == limit:
            break
    if not items and not bad:
        raise DataError(f"{folder} holds no scene of {TFDS_SPLIT[split]}; download it again")
    official = OFFICIAL.get(name) if split == "train" else OFFICIAL_VALIDATION
    return conversion.Job(
        items=items,
        sample=make_sample,
        files=item_files,
        attributes={"source": name, "size": size or first_size(items), "split": split, "limit": limit},
        official=official if limit is None else None,
        bad=source.report(bad, skip_bad, f"{folder}, {TFDS_SPLIT[split]}"),
        chunk=1,
    )


def first_size(items: list[Item]) -> list[int] | None:
    """Return frames, height and width of the first scene, None if it is damaged."""
    try:
        scene = read_scene(items[0])
    except (DataError, IndexError):
        return None
    return [scene.num_frames, scene.height, scene.width]


def find_folder(src_dir: Path) -> Path:
    """Return the one folder with TFRecord files: the given one, or else one below it.

    Raises:
        DataError: there is none, or more than one.
    """
    source.expect_folder(src_dir, "movi")
    found = sorted({file.parent for file in src_dir.rglob("*.tfrecord-*-of-*") if SHARD.fullmatch(file.name)})
    if src_dir in found:
        return src_dir
    if len(found) > 1:
        shown = "\n  ".join(str(folder) for folder in found[:SHOWN])
        more = f"\n  ... and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise DataError(f"{src_dir} holds several datasets, give one of them as --src_dir:\n  {shown}{more}")
    if not found:
        raise DataError(
            f"neither {src_dir} nor a folder below it holds files such as movi_d-train.tfrecord-00000-of-01024. "
            f"{source.there(src_dir)}{source.see('movi')}"
        )
    return found[0]


def list_shards(folder: Path, split: str) -> tuple[str, list[Path]]:
    """Return the dataset's name and all files that a split must have, in order, whether they are there or not.

    Raises:
        DataError: there is none of the split, or they are of several datasets or several partitions.
    """
    matches = [match for file in folder.iterdir() if (match := SHARD.fullmatch(file.name))]
    found = {(match["name"], int(match["count"])) for match in matches if match["split"] == split}
    if not found:
        raise DataError(f"{folder} has no file of the split {split}. {source.there(folder)}{source.see('movi')}")
    if len(found) > 1:
        shown = ", ".join(sorted(f"{name}-{split}.tfrecord-*-of-{count:05d}" for name, count in found))
        raise DataError(f"{folder} holds files of several downloads: {shown}; keep those of one")
    name, count = found.pop()
    return name, [folder / f"{name}-{split}.tfrecord-{number:05d}-of-{count:05d}" for number in range(count)]


def shard_lengths(folder: Path, split: str, count: int) -> list[int | None]:
    """Return the number of scenes per file that dataset_info.json states, None for each if it does not.

    Raises:
        DataError: it cannot be read, or knows another number of files.
    """
    file = folder / "dataset_info.json"
    if not file.is_file():
        return [None] * count
    try:
        splits = {entry["name"]: entry for entry in source.read_json(file)["splits"]}
        lengths: list[int | None] = [int(length) for length in splits[split]["shardLengths"]]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        return [None] * count  # another version of the library wrote it
    if len(lengths) != count:
        raise DataError(f"{file} lists {len(lengths)} files of {split}, the names say {count}; download both again")
    return lengths


def check_features(folder: Path) -> list[int] | None:
    """Return frames, height and width that features.json states, None without that file.

    Raises:
        DataError: it lacks something that the converter needs, or states another encoding.
    """
    file = folder / "features.json"
    if not file.is_file():
        return None
    features = dict(_flatten(source.read_json(file), ""))
    if not features:
        return None  # another version of the library wrote it; the records are checked all the same
    missing = [name for name in NEEDED if name not in features]
    if missing:
        raise DataError(f"{file} lists no {', '.join(missing)}: is {folder} a MOVi dataset? {source.see('movi')}")
    try:
        tensors = [features[name]["tensor"] for name in FLOWS]
        for name, tensor in zip(FLOWS, tensors, strict=True):
            if tensor["dtype"] != "uint16" or tensor.get("encoding", "none") != "none":
                raise DataError(f"{file}: {name} must be uint16, not encoded; it is {tensor}")
        return [int(size) for size in features["video"]["video"]["shape"]["dimensions"][:3]]
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{file}: no usable description of the videos ({error!r}); download it again") from error


def _flatten(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield path and description of each feature; a sequence has the path of what it is one of."""
    if not isinstance(node, dict):
        return
    if "featuresDict" in node:
        for name, child in node["featuresDict"].get("features", {}).items():
            yield from _flatten(child, f"{path}/{name}" if path else name)
    elif "sequence" in node:
        yield from _flatten(node["sequence"].get("feature"), path)
    elif path:
        yield path, node


def item_files(item: Item) -> tuple[Path]:
    """Return the files that an item is read from."""
    return (item.file,)


# ----------------------------------------------------------------------------------------------------------- the scene


def make_sample(item: Item) -> Packed:
    """Read, check and encode one scene.

    Raises:
        DataError: the record is damaged, or its parts do not go together; the text has file and byte.
    """
    scene = read_scene(item)
    record = {
        "video": scene.pictures("video", COLOUR, 8),
        "segment": scene.segments(),
        "visibility": scene.visibility(),
        "box": scene.boxes(),
        "depth": scene.pictures("depth", GREY, 16),
        "source_id": scene.name,
    }
    for name in FLOWS:
        record[name] = scene.flow(name)
    for name in RANGES:
        record[name] = scene.bounds(name)
    if "instances/category" in scene.example:
        record["category"] = scene.integers("instances/category", (scene.num_objects,))
    return pack(record)


def read_scene(item: Item) -> "_Scene":
    """Return an item's record with its checks; errors as for `make_sample`."""
    data = tfrecord.read(item.file, item.offset, item.length)
    return _Scene(data, f"{item.file}, byte {item.offset}")


class _Scene:
    """A record with its checks; t frames of (h w) pixels, n objects."""

    ragged = ("instances/bboxes", "instances/bbox_frames")
    small = (
        "video", "segmentations", "depth", "instances/visibility", "instances/category", "metadata/video_name",
        *(f"{name}/ragged_{part}" for name in ragged for part in ("flat_values", "row_lengths_0")),
        *(f"metadata/{name}" for name in RANGES),
    )  # fmt: skip

    def __init__(self, data: bytes, where: str):
        self.data, self.where = data, where
        self.example = tfrecord.parse(data, self.small, where)
        self.num_frames = len(self.get("video", list))
        names = self.get("metadata/video_name", list)
        if not self.num_frames or len(names) != 1:
            raise self.bad(f"'video' has {self.num_frames} frames, 'metadata/video_name' {len(names)} names")
        self.name = names[0].decode(errors="replace")
        self.height, self.width = png_size(self.get("video", list)[0], COLOUR, (8,), f"{where}, 'video'")
        self.num_objects = len(self.integers("instances/bboxes/ragged_row_lengths_0"))

    def bad(self, text: str) -> DataError:
        return DataError(f"{self.where}: {text}; download the file again")

    def get(self, name: str, kind: type | np.dtype) -> Any:
        """Return a feature; `kind` is list, np.float32 or np.int64."""
        values = self.example.get(name)
        if values is None:
            raise self.bad(f"the record has no feature {name!r}, perhaps it is no scene of MOVi")
        if isinstance(values, list) and not values and kind is not list:
            return np.empty(0, kind)  # an empty feature may have no kind
        if not isinstance(values, list) if kind is list else getattr(values, "dtype", None) != kind:
            raise self.bad(f"{name!r} has numbers or texts of another kind")
        return values

    def integers(self, name: str, shape: tuple[int, ...] = (-1,), highest: int = 1 << 31) -> np.ndarray:
        """Return a feature of that shape, int64 in 0 .. `highest`."""
        values = self.get(name, np.int64)
        if -1 not in shape and values.size != np.prod(shape):
            raise self.bad(f"{name!r} has {values.size} numbers, expected are {' x '.join(map(str, shape))}")
        if values.size and not 0 <= values.min() <= values.max() <= highest:
            raise self.bad(f"{name!r} has numbers beyond 0 .. {highest}")
        return values.reshape(shape)

    def pictures(self, name: str, colour: int, *bits: int) -> list[bytes]:
        """Return a PNG file per frame as they stand in the record, whose checksum covers them."""
        encoded = self.get(name, list)
        if len(encoded) != self.num_frames:
            raise self.bad(f"{name!r} has {len(encoded)} frames, 'video' {self.num_frames}")
        for number, picture in enumerate(encoded):
            size = png_size(picture, colour, bits, f"{self.where}, {name!r}, frame {number}")
            if size != (self.height, self.width):
                raise self.bad(f"{name!r} has a frame of {size[1]}x{size[0]}, 'video' of {self.width}x{self.height}")
        return encoded

    def segments(self) -> list[np.ndarray]:
        """Return (h w) uint8 per frame, 0 = background, k + 1 = object k; uint16 if a frame needs that."""
        found = []
        for number, encoded in enumerate(self.pictures("segmentations", GREY, 8, 16)):
            array = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
            if array is None:
                raise self.bad(f"'segmentations', frame {number}, cannot be decoded")
            if array.max() > self.num_objects:
                raise self.bad(f"'segmentations' has id {array.max()}, there are {self.num_objects} objects")
            found.append(array if array.max() > 255 else array.astype(np.uint8))
        return found

    def boxes(self) -> np.ndarray:
        """Return (t n 4) float32, left, top, right, bottom in 0..1; zeros where the object is not visible."""
        boxes, frames = self.ragged
        lengths = self.integers(f"{boxes}/ragged_row_lengths_0")
        if not np.array_equal(lengths, self.integers(f"{frames}/ragged_row_lengths_0")):
            raise self.bad("'instances/bboxes' and 'instances/bbox_frames' differ in their lengths")
        frame = self.integers(f"{frames}/ragged_flat_values", (-1,), self.num_frames - 1)
        edges = self.get(f"{boxes}/ragged_flat_values", np.float32)
        if not len(frame) * 4 == lengths.sum() * 4 == len(edges) or not np.isfinite(edges).all():
            raise self.bad(f"{len(edges)} numbers of boxes for {len(frame)} frames of {lengths.sum()}")
        dense = np.zeros((self.num_frames, self.num_objects, 4), np.float32)
        dense[frame, np.repeat(np.arange(self.num_objects), lengths)] = edges.reshape(-1, 4)[:, [1, 0, 3, 2]]
        return dense

    def visibility(self) -> np.ndarray:
        """Return (t n) uint16, visible pixels."""
        shape = (self.num_objects, self.num_frames)
        return np.ascontiguousarray(self.integers("instances/visibility", shape, LEVELS).T.astype(np.uint16))

    def flow(self, name: str) -> list[np.ndarray]:
        """Return optical flow per frame as `flow.encode_flow` prepares it, (4 h w) uint8."""
        shape = (self.num_frames, self.height, self.width, 2)
        self.example |= tfrecord.parse(self.data, [name], self.where)  # late, being large: 25 MB for 256x256
        numbers = self.integers(name, shape, LEVELS)
        del self.example[name]
        return [encode_flow(np.ascontiguousarray(frame.transpose(2, 0, 1), np.uint16)) for frame in numbers]

    def bounds(self, name: str) -> np.ndarray:
        """Return (2) float32, minimum and maximum."""
        bounds = self.get(f"metadata/{name}", np.float32)
        if bounds.shape != (2,) or not np.isfinite(bounds).all() or bounds[0] > bounds[1]:
            raise self.bad(f"'metadata/{name}' is no minimum and maximum: {bounds}")
        return bounds


def png_size(encoded: bytes, colour: int, bits: tuple[int, ...], where: str) -> tuple[int, int]:
    """Return height and width that a PNG file states.

    Raises:
        DataError: it is no PNG or cut short, or has another colour type, or a number of bits not in `bits`.
    """
    source.check_png(encoded, Path(where))
    width, height, found_bits, found_colour = struct.unpack_from(">IIBB", encoded.ljust(26), 16)
    if found_colour != colour or found_bits not in bits:
        raise DataError(
            f"{where}: a PNG of colour type {found_colour} with {found_bits} bits, expected are {colour} and "
            f"{' or '.join(map(str, bits))}"
        )
    return height, width
