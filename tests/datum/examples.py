"""MOVi files for tests and benchmarks: TFRecord files of `tf.train.Example` messages, and published records."""

import struct

import cv2
import numpy as np
import torch

from object_centric_bench.datum import published_video, tfrecord
from object_centric_bench.datum.tfrecord import masked_checksum

PUBLISHED = ["video", "segment", "box", "backward_flow", "depth"]
SOURCES = ("movi_d/32x32", "movi_d/64x64", "movi_d/256x256", "movi_c/64x64")
VALIDATION = "movi_d-validation.tfrecord-00000-of-00001"
TRAIN = "movi_d-train.tfrecord-00000-of-00001"

CHUNK = 1 << 16


def frame(data):
    """Return a record as it stands in a file: length, its checksum, data, its checksum."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_checksum(length)) + data + struct.pack("<I", masked_checksum(data))


def varints(values):
    """Encode int64 numbers."""
    parts = []
    for start in range(0, len(values), CHUNK):
        number = np.asarray(values[start : start + CHUNK], np.int64).view(np.uint64)[:, None]
        shift = np.arange(10, dtype=np.uint64) * np.uint64(7)
        digits = (number >> shift) & np.uint64(127)
        length = 1 + (number >= np.uint64(1) << shift[1:]).sum(axis=1, keepdims=True)
        place = np.arange(10)
        digits |= np.where(place < length - 1, np.uint64(128), np.uint64(0))
        parts.append(digits.astype(np.uint8)[place < length].tobytes())
    return b"".join(parts)


def field(number, data):
    """Return a field with a length: a text or another message."""
    return varints([number << 3 | 2]) + varints([len(data)]) + data


def feature(values, packed=True):
    """Return the message of a list of bytes, of a float32 or of an int64 array."""
    if isinstance(values, list):
        return field(1, b"".join(field(1, value) for value in values))
    if values.dtype == np.float32:
        if packed:
            return field(2, field(1, values.astype("<f4").tobytes()))
        return field(2, b"".join(b"\x0d" + struct.pack("<f", value) for value in values))
    if packed:
        return field(3, field(1, varints(values)))
    return field(3, b"".join(b"\x08" + varints([value]) for value in values))


def example(features, packed=True):
    """Return the message of a dict of names and values."""
    entries = (field(1, name.encode()) + field(2, feature(values, packed)) for name, values in features.items())
    return field(1, b"".join(field(1, entry) for entry in entries))


def scene(folder, position=0, name=TRAIN):
    """Return the features of a record."""
    return tfrecord.parse(tfrecord.read(folder / name, *tfrecord.index(folder / name)[position]))


def write_scenes(file, scenes):
    file.write_bytes(b"".join(frame(example(features)) for features in scenes))


def samples_equal(ours, theirs, keys):
    for key in keys:
        assert torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype, key


def later(record):
    """Return a published record of 2025 as the writers of 2026 store it: PNG files, their red and blue exchanged."""
    decoded = published_video.decode(record, PUBLISHED, range, "")

    def png(pictures):
        return [cv2.imencode(".png", picture)[1] for picture in pictures]

    flow, bounds = decoded["backward_flow"], decoded["backward_flow_range"]
    return {
        "video": png(decoded["video"]),
        "segment": png(decoded["segment"]),
        "bbox": decoded["box"],
        "flow": {"data": [png(flow[:, 0]), png(flow[:, 1])], "min": bounds[0], "max": bounds[1]},
        "depth": {"data": png(decoded["depth"]), "min": decoded["depth_range"][0], "max": decoded["depth_range"][1]},
        "s": np.uint8(decoded["segment"].max()),
    }
