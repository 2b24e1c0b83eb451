"""Label maps for evaluation protocols: in further sizes, and what COCO's are made of. Files are made here."""

import cv2
import numpy as np
import pytest
import torch

from object_centric_bench.datum.coco import COCO
from object_centric_bench.datum.labels import WithLabels
from object_centric_bench.datum.loader import eval_batches
from object_centric_bench.datum.record import DataError, pack
from object_centric_bench.datum.transform import CenterCrop, RandomFlip, Resize

from .stores import published, write

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 30, 46


def records(count=3):
    """Return records with a thing (1), a crowd of things (2), stuff (3) and unlabelled pixels (0)."""
    generator = np.random.default_rng(5)
    for index in range(count):
        segment = generator.integers(0, 4, (5, 6)).astype(np.uint8).repeat(8, 0).repeat(8, 1)[:HEIGHT, :WIDTH]
        segment[:4, 20:24] = range(4)  # all four occur
        yield {
            "image": cv2.imencode(".png", generator.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8))[1].tobytes(),
            "segment": segment,
            "box": np.zeros((3, 4), np.float32),
            "category": np.array([17, 44, 184], np.uint8),
            "is_thing": np.array([True, True, False]),
            "is_crowd": np.array([False, True, False]),
            "source_id": f"{index:03d}",
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("coco")
    write(target / "val.lmdb", "coco", [pack(record) for record in records()])
    return target


def transforms(labels=("segment",), size=16):
    return [
        CenterCrop(["image", *labels]),
        Resize(["image"], size),
        Resize(list(labels), size, mode="nearest-exact"),
    ]


@pytest.mark.parametrize("instance", [True, False])
def test_maps_that_are_made_of_segments(folder, instance):
    keys = ["segment", "semantic", "unlabelled", "crowd"]
    dataset = COCO("val.lmdb", keys, instance=instance, data_dir=str(folder))
    for index, record in enumerate(records()):
        stored = record["segment"]
        sample = dataset.sample(index, RNG)
        assert set(sample) == {"index", *keys}
        np.testing.assert_array_equal(sample["unlabelled"], stored == 0)
        np.testing.assert_array_equal(sample["crowd"], stored == 2)
        np.testing.assert_array_equal(sample["semantic"], np.array([0, 17, 44, 0 if instance else 184])[stored])
        np.testing.assert_array_equal(sample["segment"], np.array([0, 1, 2, 0 if instance else 3])[stored])
        assert sample["semantic"].dtype == torch.uint8
        assert sample["unlabelled"].dtype == sample["crowd"].dtype == torch.bool


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["image", "segment"], {"image", "segment", "is_thing"}),
        (["segment", "crowd"], {"segment", "is_thing", "is_crowd"}),
        (["segment", "semantic"], {"segment", "is_thing", "category"}),
    ],
)
def test_only_what_the_maps_are_made_of_is_read(folder, monkeypatch, keys, expected):
    dataset = COCO("val.lmdb", keys, data_dir=str(folder))
    stored, read = dataset.reader.read, []
    monkeypatch.setattr(dataset.reader, "read", lambda index, names: read.append(set(names)) or stored(index, names))
    assert set(dataset.sample(0, RNG)) == {"index", *keys}
    assert read == [expected]


def test_further_sizes_come_from_the_stored_maps(folder):
    keys = ["image", "segment", "semantic"]
    dataset = COCO("val.lmdb", keys, transforms(), data_dir=str(folder))
    more = WithLabels(dataset, ["segment@25", "semantic@25", "segment@7"])
    square = slice((WIDTH - HEIGHT) // 2, (WIDTH - HEIGHT) // 2 + HEIGHT)
    for index, record in enumerate(records()):
        plain, sample = dataset.sample(index, RNG), more.sample(index, RNG)
        assert set(sample) == {"index", *keys, "segment@25", "semantic@25", "segment@7"}
        assert all(torch.equal(torch.as_tensor(sample[key]), torch.as_tensor(plain[key])) for key in plain)
        stored = record["segment"][:, square]
        for size in (25, 7):
            place = np.floor((np.arange(size) + 0.5) * HEIGHT / size).astype(int)  # the pixel below each centre
            ids = stored[np.ix_(place, place)]
            kept = np.array([0, *np.cumsum([(ids == 1).any(), (ids == 2).any()]), 0])
            np.testing.assert_array_equal(sample[f"segment@{size}"], kept[ids])
            if size == 25:
                np.testing.assert_array_equal(sample["semantic@25"], np.array([0, 17, 44, 0])[ids])
    batch = next(eval_batches(more, 3))
    assert batch["segment@25"].shape == (3, 25, 25)
    assert more.source_id(2) == "002" and len(more) == 3


def test_random_or_unsized_splits_are_refused(folder):
    random = [*transforms(), RandomFlip(["image", "segment"])]
    with pytest.raises(DataError, match=r"val.lmdb: labels in another size need a split without random RandomFlip"):
        WithLabels(COCO("val.lmdb", ["image", "segment"], random, data_dir=str(folder)), ["segment@9"])
    with pytest.raises(DataError, match="need a Resize of 'segment'"):
        WithLabels(COCO("val.lmdb", ["image", "segment"], data_dir=str(folder)), ["segment@9"])


def test_what_published_files_cannot_tell_is_said_at_once(tmp_path):
    """Files of 2025 do not tell crowds; those with things only do not tell stuff from what nobody labelled."""
    record = next(records(1))
    stored = {
        "image": record["image"],
        "segment": cv2.imencode(".png", record["segment"])[1].tobytes(),
        "bbox": record["box"],
        "clazz": record["category"],
    }
    published(tmp_path / "a.lmdb", [stored | {"isthing": record["is_thing"]}])
    sample = COCO("a.lmdb", ["semantic", "unlabelled", "segment"], data_dir=str(tmp_path)).sample(0, RNG)
    np.testing.assert_array_equal(sample["semantic"], np.array([0, 17, 44, 0])[record["segment"]])
    np.testing.assert_array_equal(sample["unlabelled"], record["segment"] == 0)
    with pytest.raises(DataError, match=r"a.lmdb is a published file without 'is_crowd'.*make: python convert.py coco"):
        COCO("a.lmdb", ["segment", "crowd"], data_dir=str(tmp_path))
    published(tmp_path / "b.lmdb", [stored])
    with pytest.raises(DataError, match=r"b.lmdb holds things only, so nothing tells 'unlabelled'.*make it again"):
        COCO("b.lmdb", ["segment", "unlabelled"], data_dir=str(tmp_path))
