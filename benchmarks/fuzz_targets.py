"""What reads files and texts from outside, each with real inputs to start from: the targets of `benchmarks.fuzz`.

A target's `attempt` takes bytes and reads them as users' files are read. It may raise nothing but `REFUSED`.
"""

import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import lmdb
import numpy as np
import torch
from torch import nn

from object_centric_bench import config
from object_centric_bench.datum import conversion, environment, flow, tfrecord
from object_centric_bench.datum.cache import Cache
from object_centric_bench.datum.dataset import decode_label
from object_centric_bench.datum.lmdb import HEADER_KEY, Header, Reader, header_value, sample_key
from object_centric_bench.datum.record import DataError, Pixels, pack, seal
from object_centric_bench.datum.unpickle import unpickle
from object_centric_bench.learn import checkpoint
from object_centric_bench.learn.checkpoint import CheckpointError
from object_centric_bench.registry import ConfigError
from tests.datum.examples import example, frame

REFUSED = (DataError, ConfigError, CheckpointError)
CONFIG = {
    "model": {"type": "SlotAttention", "dim": 64, "dims": [64, 128], "scale": 0.5, "bias": True, "weights": None},
    "callback": [{"type": "Log", "every": 50}, {"type": "Save", "best": "ari", "higher": True}],
    "schedule": {},
    "freeze": [],
}


class Target(NamedTuple):
    """Something that reads what comes from outside.

    Attributes:
        seeds: an empty folder -> valid inputs.
        attempt: reads an input; may write below the folder; raises one of `REFUSED` for what it refuses.
        share: of all inputs, relative to other targets.
    """

    seeds: Callable[[Path], list[bytes]]
    attempt: Callable[[bytes, Path], None]
    share: int = 1


def sample(index: int) -> dict:
    """Return a small record with all kinds of entries."""
    rng = np.random.default_rng(index)
    return {
        "image": picture(".png", rng),
        "segment": rng.integers(0, 4, (40, 40)).astype(np.uint8),
        "box": rng.random((3, 4), dtype=np.float32),
        "source_id": f"picture {index}",
        "video": [rng.bytes(30) for _ in range(3)],
        "flow": [flow.encode_flow(rng.integers(0, 65536, (2, 6, 6)).astype(np.uint16)) for _ in range(3)],
        "decoded": Pixels(rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)),
    }


def picture(suffix: str, rng: np.random.Generator) -> bytes:
    """Return a picture file of few grey values."""
    return cv2.imencode(suffix, rng.integers(0, 5, (24, 24)).astype(np.uint8))[1].tobytes()


def published_samples() -> list[dict]:
    """Return records as published files have them."""
    rng = np.random.default_rng(0)
    return [
        {
            "image": picture(".jpg", rng),
            "segment": picture(".webp", rng),
            "bbox": rng.random((4, 4), dtype=np.float32),
            "video": [io.BytesIO(rng.bytes(40)), io.BytesIO(rng.bytes(40))],
            "scalar": np.float32(index),
        }
        for index in range(4)
    ]


def write_raw(file: Path, pairs: dict[bytes, bytes]) -> None:
    """Write an LMDB file with exactly these records."""
    opened = lmdb.open(str(file), subdir=False, lock=False, map_size=1 << 24, sync=False)
    with opened, opened.begin(write=True) as transaction:
        for key, value in pairs.items():
            transaction.put(key, value)


def read_lmdb(file: Path) -> None:
    """Read all of a file as training does, then forget it: the next one has the same name."""
    try:
        reader = Reader(file)
        for index in range(min(len(reader), 8)):
            record = reader.read(index)
            for frame_ in record.get("flow", []) if not reader.published else []:
                flow.decode_flow(frame_, str(file))
    finally:
        environment._close_all()


# ------------------------------------------------------------------------------------------------------------- LMDB


def lmdb_seeds(folder: Path) -> list[bytes]:
    """Return whole files: ours, with records on pages of their own and within the tree, and a published one."""
    packed = [pack(sample(index)) for index in range(6)]
    conversion.write(folder / "a.lmdb", "toy", conversion.Job(range(6), packed.__getitem__))
    small = [pack({"source_id": str(index), "box": np.zeros((1, 4))}) for index in range(150)]
    conversion.write(folder / "b.lmdb", "toy", conversion.Job(range(150), small.__getitem__))
    stored = {b"%06d" % index: pickle.dumps(record, 4) for index, record in enumerate(published_samples())}
    write_raw(folder / "c.lmdb", {b"__keys__": pickle.dumps([*stored], 4), **stored})
    return [(folder / name).read_bytes() for name in ("a.lmdb", "b.lmdb", "c.lmdb")]


def lmdb_attempt(data: bytes, folder: Path) -> None:
    """Read a whole file."""
    file = folder / "whole.lmdb"
    file.write_bytes(data)
    read_lmdb(file)


def tree_seeds(folder: Path) -> list[bytes]:
    """Return what holds LMDB's tree together, of each file after its number: meta pages, branches and leaves.

    Of each page the first bytes, its head and the places of its nodes, and the last, some nodes.
    """
    found = []
    for number, data in enumerate(lmdb_seeds(folder)):
        (folder / f"{number}.base").write_bytes(data)
        found.append(bytes([number]) + b"".join(data[start:end] for start, end in _tree(data)))
    return found


def _tree(data: bytes) -> list[tuple[int, int]]:
    starts = [page for page in range(0, len(data), 4096) if struct.unpack_from("<QHH", data, page)[2] in (1, 2, 8)]
    starts = [page for page in starts if struct.unpack_from("<Q", data, page)[0] in (page // 4096, 0)]  # no picture
    return [part for page in starts for part in ((page, page + 160), (page + 3896, page + 4096))]


def tree_attempt(data: bytes, folder: Path) -> None:
    """Read a file whose tree was changed."""
    base = bytearray((folder / "seeds" / f"{data[0] % 3 if data else 0}.base").read_bytes())
    position = 1
    for start, end in _tree(bytes(base)):
        part = data[position : position + end - start]
        base[start : start + len(part)] = part
        position += end - start
    lmdb_attempt(bytes(base), folder)


def record_seeds(folder: Path) -> list[bytes]:
    """Return bodies of values after the number of what they are: 0 a header, 1 a sample, 2 an element of a list."""
    values = dict(pack(sample(0)).values)
    header = header_value(Header("toy", 1, 3, {"source": "here"}, len(values)))[1]
    return [bytes([number]) + value[4:] for number, value in enumerate((header, values[""], values[".flow.0001"]))]


def record_attempt(data: bytes, folder: Path) -> None:
    """Read a file with a header, a sample or an element whose checksum is right, as in a file made to do harm."""
    pairs = {sample_key(0) + suffix.encode(): value for suffix, value in pack(sample(0)).values}
    pairs[HEADER_KEY] = header_value(Header("toy", 1, 3, {}, len(pairs)))[1]
    key = (HEADER_KEY, sample_key(0), sample_key(0) + b".flow.0001")[data[0] % 3 if data else 0]
    pairs[key] = seal(data[1:])
    file = folder / "record.lmdb"
    file.unlink(missing_ok=True)
    write_raw(file, pairs)
    read_lmdb(file)


# ------------------------------------------------------------------------------------------------- pickles and pictures


def pickle_seeds(folder: Path) -> list[bytes]:
    """Return pickles of published records, of all protocols, and a list of keys."""
    values = [*published_samples()[:2], [b"000000", b"000001"], {"nested": [(1, 2.5, None), {"a": np.arange(3)}]}]
    return [pickle.dumps(value, protocol) for value in values for protocol in range(3, 6)]


def pickle_attempt(data: bytes, folder: Path) -> None:
    """Decode a pickle."""
    unpickle(data, "record")


def picture_seeds(folder: Path) -> list[bytes]:
    """Return label maps as PNG and WebP."""
    rng = np.random.default_rng(1)
    return [picture(".png", rng), picture(".webp", rng), picture(".png", rng)]


def picture_attempt(data: bytes, folder: Path) -> None:
    """Decode a label map, and what can be made of the bytes as planes of flow."""
    decode_label(data, "record")
    side = max(1, len(data) // 8)
    flow.decode_flow(np.frombuffer(data[: side * 4], np.uint8).reshape(4, 1, -1), "record")


# --------------------------------------------------------------------------------------------------------- TFRecords


def example_seeds(folder: Path) -> list[bytes]:
    """Return messages with all kinds of features."""
    features = {
        "video": [b"first", b"second" * 9],
        "number": np.array([1, -1, 1 << 40, 300]),
        "float": np.array([1.5, -2.0], np.float32),
        "none": [],
    }
    return [example(features), example(features, packed=False)]


def example_attempt(data: bytes, folder: Path) -> None:
    """Decode a message."""
    tfrecord.parse(data)


def tfrecord_seeds(folder: Path) -> list[bytes]:
    """Return files of two or three records."""
    messages = example_seeds(folder)
    return [b"".join(map(frame, messages)), b"".join(map(frame, [messages[0], b"", messages[1]]))]


def tfrecord_attempt(data: bytes, folder: Path) -> None:
    """Read a file; where its first record's checksums are wrong, also with right ones, as in a file made to do harm."""
    file = folder / "a.tfrecord"
    for content in (data, frame(data)):
        file.write_bytes(content)
        try:
            for offset, length in tfrecord.index(file):
                tfrecord.parse(tfrecord.read(file, offset, length))
            return
        except DataError:
            if content is not data:
                raise


# -------------------------------------------------------------------------------------------------------- checkpoints


def checkpoint_seeds(folder: Path) -> list[bytes]:
    """Return weights as safetensors, as .pth of both kinds, and a training state."""
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    checkpoint.save(folder / "last", model, {"step": 3, "config": CONFIG}, {"optimizer": optimizer.state_dict()})
    torch.save(model.state_dict(), folder / "old.pth", _use_new_zipfile_serialization=False)
    torch.save(model.state_dict(), folder / "new.pth")
    files = [folder / "last" / checkpoint.WEIGHTS, folder / "last" / checkpoint.STATE, folder / "old.pth"]
    return [file.read_bytes() for file in [*files, folder / "new.pth", files[0]]]


def checkpoint_attempt(data: bytes, folder: Path) -> None:
    """Read a file under the name that its first bytes suggest, and load its tensors."""
    folder = folder / "run"
    folder.mkdir(exist_ok=True)
    zipped = data[:2] == b"PK"
    names = [checkpoint.STATE, "weights.pth"] if zipped else ["weights.pth" if data[:1] == b"\x80" else "w.safetensors"]
    accepted, refused = 0, None
    for name in names:
        (folder / name).write_bytes(data)
        try:
            if name == checkpoint.STATE:
                checkpoint.read_state(folder)
            else:
                tensors, _ = checkpoint.read(folder / name)
                checkpoint.assign(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), tensors, name)
            accepted += 1
        except CheckpointError as error:
            refused = error
    if not accepted and refused is not None:
        raise refused


# ---------------------------------------------------------------------------------------------- overrides and the cache


def override_seeds(folder: Path) -> list[bytes]:
    """Return overrides as on a command line, one a line."""
    return [
        b"model.dim=128", b"model.dims=[1, 2, 3]", b"model.scale=1e-4", b"model.bias=False", b"model.weights='a.pth'",
        b"callback.0.every=7", b"callback.1.best=miou\nmodel.dims.0=3", b"model.weights={'a': (1, [2.5, None])}",
        b"model.type=Other", b"freeze=['a.*']", b"schedule={'lr': [1, (2, 3)]}",
    ]  # fmt: skip


def override_attempt(data: bytes, folder: Path) -> None:
    """Override leaves of a config; what comes out must be a config: JSON keeps it, and it prints."""
    cfg = config.override(CONFIG, data.decode(errors="replace").split("\n"))
    config.show(cfg)
    if config.diff(config.override(cfg, []), cfg):
        raise AssertionError("JSON does not give the config back")


def cache_seeds(folder: Path) -> list[bytes]:
    """Return the two files of an entry, after the length of the first."""
    cache = Cache(folder / "cache", 1 << 20)
    cache.folder.mkdir()
    with cache.writer("key", 3, {"what": "test"}) as writer:
        writer.add(torch.arange(24, dtype=torch.float32).view(3, 2, 4))
        writer.commit()
    rows, facts = ((folder / "cache" / "key" / name).read_bytes() for name in ("rows.bin", "facts.json"))
    return [struct.pack("<H", len(rows)) + rows + facts]


def cache_attempt(data: bytes, folder: Path) -> None:
    """Open an entry and take rows of it; a damaged one is `None`."""
    entry = folder / "cache" / "key"
    entry.mkdir(parents=True, exist_ok=True)
    (length,) = struct.unpack_from("<H", data.ljust(2, b"\0"))
    (entry / "rows.bin").write_bytes(data[2 : 2 + length])
    (entry / "facts.json").write_bytes(data[2 + length :])
    found = Cache(folder / "cache", 1 << 20).open("key")
    if found is None:
        raise DataError("damaged entry")
    found.take(torch.zeros(min(1, len(found.rows)), dtype=torch.long))


TARGETS = {
    "lmdb file": Target(lmdb_seeds, lmdb_attempt, 3),
    "lmdb tree": Target(tree_seeds, tree_attempt, 3),
    "lmdb record": Target(record_seeds, record_attempt, 2),
    "unpickler": Target(pickle_seeds, pickle_attempt, 4),
    "picture and flow": Target(picture_seeds, picture_attempt, 1),
    "tf.Example": Target(example_seeds, example_attempt, 3),
    "tfrecord file": Target(tfrecord_seeds, tfrecord_attempt, 2),
    "checkpoint": Target(checkpoint_seeds, checkpoint_attempt, 2),
    "config override": Target(override_seeds, override_attempt, 2),
    "cache entry": Target(cache_seeds, cache_attempt, 1),
}
