"""COCO: conversion of the raw layout, and both generations of published files, against the reference's numbers."""

import json
import os
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from object_centric_bench.datum import coco
from object_centric_bench.datum.coco import COCO, convert
from object_centric_bench.datum.lmdb import Reader
from object_centric_bench.datum.record import DataError, pack
from object_centric_bench.datum.source import compact
from object_centric_bench.datum.transform import CenterCrop, RandomCrop, RandomFlip, Resize
from tests.conftest import require

from .stores import published, write

RNG = np.random.default_rng(0)
ALL = ["image", "segment", "box", "category", "is_thing", "is_crowd"]


@pytest.fixture(scope="module")
def converted(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    convert(raw / "coco", folder)
    return folder


@pytest.fixture
def broken(raw, tmp_path):
    """A copy of the raw data that a test may damage."""
    return shutil.copytree(raw / "coco", tmp_path / "raw", copy_function=shutil.copyfile)


# -------------------------------------------------------------------------------------------------------- conversion


@pytest.mark.parity
@pytest.mark.parametrize("split", ["train", "val"])
def test_records_equal_the_expected_ones(raw, converted, split):
    expected = np.load(raw / "expected" / f"coco_{split}.npz")
    names = sorted(key for key in expected.files if key.startswith("name_"))
    dataset = COCO(f"{split}.lmdb", ALL, instance=False, data_dir=str(converted))
    assert len(dataset) == len(names)
    for index in range(len(dataset)):
        sample = dataset.sample(index, RNG)
        assert dataset.source_id(index) == expected[f"name_{index:03d}"]
        for ours, theirs in (("segment", "segment"), ("box", "bbox"), ("category", "clazz"), ("is_thing", "isthing"),
                             ("is_crowd", "iscrowd")):  # fmt: skip
            np.testing.assert_array_equal(sample[ours], expected[f"{theirs}_{index:03d}"])
        assert sample["segment"].dtype == torch.uint8 and sample["box"].dtype == torch.float32
        file = raw / "coco" / f"{split}2017" / f"{dataset.source_id(index)}.jpg"
        assert dataset.reader.read(index)["image"] == file.read_bytes()
        picture = cv2.imread(str(file), cv2.IMREAD_COLOR)[:, :, ::-1]
        np.testing.assert_array_equal(sample["image"].permute(1, 2, 0), picture)
        assert sample["image"].is_contiguous()


@pytest.mark.parity
def test_things_only(raw, converted):
    expected = np.load(raw / "expected" / "coco_train.npz")
    dataset = COCO("train.lmdb", ALL, data_dir=str(converted))
    for index in range(len(dataset)):
        sample = dataset.sample(index, RNG)
        thing = expected[f"isthing_{index:03d}"]
        old = np.flatnonzero(thing) + 1
        segment = np.zeros_like(expected[f"segment_{index:03d}"])
        for new, was in enumerate(old, 1):
            segment[expected[f"segment_{index:03d}"] == was] = new
        np.testing.assert_array_equal(sample["segment"], segment)
        np.testing.assert_array_equal(sample["category"], expected[f"clazz_{index:03d}"][thing])
        np.testing.assert_array_equal(sample["box"], expected[f"bbox_{index:03d}"][thing])
        assert sample["is_thing"].all()


def test_rows_of_lost_segments_are_dropped(converted):
    """A 20 pixel window in the middle: each row's category is still that of the pixels under its id."""
    whole = COCO("train.lmdb", ALL, instance=False, data_dir=str(converted))
    part = COCO("train.lmdb", ALL, [CenterCrop(["image", "segment"], 20)], instance=False, data_dir=str(converted))
    dropped = 0
    for index in range(len(whole)):
        before, after = whole.sample(index, RNG), part.sample(index, RNG)
        window = CenterCrop(["segment"], 20)({"segment": before["segment"]})["segment"]
        for old in window.unique()[window.unique() > 0]:
            new = after["segment"][window == old].unique().tolist()
            assert len(new) == 1 and new[0] > 0
            assert after["category"][new[0] - 1] == before["category"][int(old) - 1]
        assert (after["segment"][window == 0] == 0).all()
        assert len(after["category"]) == len(after["box"]) == after["segment"].max()
        dropped += len(before["category"]) - len(after["category"])
    assert dropped > 10


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_writes_the_same_bytes(raw, converted, tmp_path, workers):
    convert(raw / "coco", tmp_path, workers=workers)
    for name in ("train.lmdb", "val.lmdb"):
        assert (tmp_path / name).read_bytes() == (converted / name).read_bytes()


def test_limit_and_split(raw, tmp_path):
    convert(raw / "coco", tmp_path, split=("val",), limit=2)
    assert [path.name for path in tmp_path.iterdir()] == ["val.lmdb"]
    header = Reader(tmp_path / "val.lmdb", "coco").header
    assert header.num_samples == 2 and header.attributes["limit"] == 2


@settings(deadline=None, max_examples=60)
@given(arrays.arrays(np.int32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 9)))
def test_compact_is_the_rank_among_the_ids(colour):
    ids, segment = compact(colour)
    assert ids.tolist() == sorted(set(colour.ravel().tolist()) - {0})
    for rank, value in enumerate(ids, 1):
        assert ((segment == rank) == (colour == value)).all()
    assert ((segment == 0) == (colour == 0)).all()


def test_more_than_255_segments(tmp_path):
    """300 segments: the reference wraps, its id 256 becomes 0."""
    ids, segment = compact(np.arange(1, 301, dtype=np.int32).repeat(2).reshape(20, 30) * 7)
    assert segment.dtype == np.uint16 and segment.max() == len(ids) == 300
    record = {
        "image": cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes(),
        "segment": segment,
        "box": np.zeros((300, 4), np.float32),
        "category": np.arange(300) % 200,
        "is_thing": np.arange(300) % 2 == 0,
        "is_crowd": np.zeros(300, bool),
        "source_id": "x",
    }
    write(tmp_path / "a.lmdb", "coco", [pack(record)])
    # keeps the rows 1, 3, 5 ... with 15 segments each, of which 7 are things
    transforms = [Resize(["segment"], [10, 30], "nearest-exact")]
    sample = COCO("a.lmdb", ["segment", "category"], transforms, data_dir=str(tmp_path)).sample(0, RNG)
    assert sample["segment"].dtype == torch.int32 and sample["segment"].max() == len(sample["category"]) == 70


# --------------------------------------------------------------------------------------------------------- bad input


def edit(folder, change, split="train"):
    file = folder / "annotations" / f"panoptic_{split}2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def cut(file, share):
    os.truncate(file, int(file.stat().st_size * share))


def scramble(file):
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20] = bytes(20)
    file.write_bytes(content)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def repeat_category(folder):
    file = folder / "annotations" / coco.CATEGORIES
    content = json.loads(file.read_text())
    file.write_text(json.dumps([*content, content[0]]))


def first(content):
    return content["annotations"][0]


BAD = {
    "no folder": (lambda f: shutil.rmtree(f), "train2017 is missing.*is no folder"),
    "categories": (
        lambda f: (f / "annotations" / coco.CATEGORIES).unlink(),
        "panoptic_coco_categories.json is missing",
    ),
    "categories damaged": (lambda f: (f / "annotations" / coco.CATEGORIES).write_text("[1]"), "list of categories"),
    "images": (lambda f: shutil.rmtree(f / "train2017"), r"train2017 is missing.*holds annotations, val2017"),
    "labels": (lambda f: shutil.rmtree(f / "annotations/panoptic_val2017"), "panoptic_val2017 is missing"),
    "json": (lambda f: (f / "annotations/panoptic_train2017.json").unlink(), r"panoptic_train2017.json is missing"),
    "json cut": (lambda f: (f / "annotations/panoptic_train2017.json").write_text("{"), "no valid JSON"),
    "json other": (lambda f: (f / "annotations/panoptic_train2017.json").write_text("{}"), "lists no annotation"),
    "json empty": (lambda f: edit(f, lambda c: c["annotations"].clear()), "lists no annotation"),
    "one image": (
        lambda f: (f / "train2017/000000900031.jpg").unlink(),
        r"1 bad:\n.*000000900031.jpg is missing\n.*--skip_bad",
    ),
    "one label": (
        lambda f: (f / "annotations/panoptic_train2017/000000900031.png").unlink(),
        r"1 bad:\n.*000000900031.png is missing\n.*--skip_bad",
    ),
    "no key": (lambda f: edit(f, lambda c: first(c)["segments_info"][0].pop("bbox")), r"000000900103.png.*'bbox'"),
    "category": (
        lambda f: edit(f, lambda c: first(c)["segments_info"][0].update(category_id=999)),
        r"000000900103.png has a segment of category 999, not listed in panoptic_coco_categories.json",
    ),
    "twice": (
        lambda f: edit(f, lambda c: c["annotations"].append(c["annotations"][0])),
        "000000900103.png twice",
    ),
    "category twice": (lambda f: repeat_category(f), "list of categories.*listed twice"),
    "repeated": (
        lambda f: edit(f, lambda c: first(c)["segments_info"].append(first(c)["segments_info"][0])),
        "repeated ids",
    ),
}
BAD_LATE = {  # found while converting
    "box outside": (
        lambda f: edit(f, lambda c: first(c)["segments_info"][0].update(bbox=[-500, -20, 1e9, 3])),
        "000000900103.png: the JSON has a box outside of its",
    ),
    "label with one wrong bit": (
        lambda f: flip(f / "annotations/panoptic_train2017/000000900031.png"),
        "900031.png is damaged, a checksum does not match",
    ),
    "image damaged": (
        lambda f: (f / "train2017/000000900031.jpg").write_bytes(b"no picture"),
        r"000000900031.jpg is no picture",
    ),
    "image empty": (lambda f: (f / "train2017/000000900031.jpg").write_bytes(b""), r"900031.jpg is empty"),
    "image cut off": (lambda f: cut(f / "train2017/000000900031.jpg", 0.95), r"900031.jpg is cut off"),
    "label cut off": (
        lambda f: cut(f / "annotations/panoptic_train2017/000000900031.png", 0.95),
        r"900031.png is cut off, its end is missing",
    ),
    "label empty": (
        lambda f: (f / "annotations/panoptic_train2017/000000900031.png").write_bytes(b""),
        r"900031.png is empty",
    ),
    "label no picture": (
        lambda f: (f / "annotations/panoptic_train2017/000000900031.png").write_bytes(b"no picture"),
        r"900031.png is no PNG",
    ),
    "label damaged inside": (
        lambda f: scramble(f / "annotations/panoptic_train2017/000000900031.png"),
        r"900031.png is damaged, a checksum",
    ),
    "sizes": (
        lambda f: shutil.copy(f / "train2017/000000900027.jpg", f / "train2017/000000900031.jpg"),
        r"000000900031.jpg has 426x640 pixels, .*000000900031.png \d+x\d+",
    ),
    "ids": (
        lambda f: edit(f, lambda c: first(c)["segments_info"].pop(0)),
        r"000000900103.png: its ids and those of the JSON differ in \[8749422\]",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sources_are_found_before_anything_is_written(broken, tmp_path, case):
    damage, text = BAD[case]
    damage(broken)
    with pytest.raises(DataError, match=text):
        convert(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", BAD_LATE)
def test_bad_pictures_leave_no_half_file(broken, tmp_path, case):
    damage, text = BAD_LATE[case]
    damage(broken)
    with pytest.raises(DataError, match=text):
        convert(broken, tmp_path / "out")
    assert list((tmp_path / "out").glob("*.lmdb")) == []


@pytest.mark.parametrize("case", [*BAD_LATE, "one image", "one label", "category", "repeated", "no key"])
def test_bad_images_are_left_out_on_request(broken, tmp_path, case):
    damage, text = (BAD_LATE | BAD)[case]
    damage(broken)
    convert(broken, tmp_path / "out", skip_bad=True, workers=2)
    reader = Reader(tmp_path / "out" / "train.lmdb", "coco")
    assert len(reader) == 5 and len(reader.header.attributes["left_out"]) == 1
    wanted = text.partition(r"1 bad:\n.*")[2].partition(r"\n")[0] or text
    assert re.search(wanted, reader.header.attributes["left_out"][0])
    assert len(Reader(tmp_path / "out" / "val.lmdb", "coco")) == 4


def test_counts_other_than_the_official_ones_are_said(raw, tmp_path, caplog):
    convert(raw / "coco", tmp_path / "a", split=("val",))
    assert "4 samples, the official download 5000" in caplog.text
    caplog.clear()
    convert(raw / "coco", tmp_path / "b", split=("val",), limit=2)
    assert not caplog.text


def test_an_existing_target_stops_before_the_source_is_read(converted):
    with pytest.raises(DataError, match=r"train.lmdb exists"):
        convert("nowhere", converted)


# -------------------------------------------------------------------------------------------------- published files

NAMES = {"segment": "segment", "box": "bbox", "category": "clazz"}


@pytest.mark.parity
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("instance", [False, True])
def test_published_files_of_the_first_version(golden, split, instance):
    folder = require(golden / "lmdb" / "coco")
    expected = np.load(folder / "expected.npz")
    case = f"{split}_{'instance' if instance else 'panoptic'}"
    dataset = COCO(f"{split}.lmdb", ["image", *NAMES], instance=instance, data_dir=str(folder))
    assert len(dataset) == sum(key.startswith(f"{case}.") and key.endswith(".image") for key in expected.files)
    for index in range(len(dataset)):
        sample = dataset.sample(index, RNG)
        for ours, theirs in NAMES.items():
            np.testing.assert_array_equal(sample[ours], expected[f"{case}.{index}.{theirs}"])
        difference = sample["image"].int() - torch.from_numpy(expected[f"{case}.{index}.image"]).int()
        assert difference.abs().max() <= 2
        assert dataset.source_id(index) == f"{index:06d}"


@pytest.mark.parity
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("instance", [False, True])
def test_published_files_of_the_later_version(golden, split, instance):
    """There a mask per segment; instance mode puts the stuff into mask 0, unlabelled pixels into none."""
    folder = require(golden / "lmdb" / "coco_msf")
    expected = np.load(folder / "expected.npz")
    case = f"{split}_{'instance' if instance else 'panoptic'}"
    dataset = COCO(f"{split}.lmdb", ["image", "segment", "category"], instance=instance, data_dir=str(folder))
    assert len(dataset) >= 4
    for index in range(len(dataset)):
        sample = dataset.sample(index, RNG)
        masks = expected[f"{case}.{index}.segment"]  # h w s
        segment = np.zeros(masks.shape[:2], np.int64)
        for position, mask in enumerate(np.moveaxis(masks, 2, 0)):
            segment[mask] = position + (0 if instance else 1)
        np.testing.assert_array_equal(sample["segment"], segment)
        np.testing.assert_array_equal(sample["category"], expected[f"{case}.{index}.clazz"])


@pytest.mark.parity
def test_what_published_files_lack_is_said_at_once(golden):
    with pytest.raises(DataError, match=r"without 'box'.*convert.py coco"):
        COCO("train.lmdb", ["segment", "box"], data_dir=str(require(golden / "lmdb" / "coco_msf")))
    with pytest.raises(DataError, match="without 'is_crowd'"):
        COCO("train.lmdb", ["segment", "is_crowd"], data_dir=str(require(golden / "lmdb" / "coco")))
    with pytest.raises(DataError, match="another dataset, its records hold image, segment"):
        COCO("train.lmdb", ["segment"], data_dir=str(require(golden / "lmdb" / "voc")))


def test_published_files_with_things_only(tmp_path):
    """Autumn 2025: no `isthing`, stuff already 0, ids with gaps, rows for things in rising order of ids."""
    label = np.zeros((8, 10), np.uint8)
    label[:2], label[4:6], label[6:, :5] = 2, 5, 9
    records = [
        {
            "image": cv2.imencode(".png", np.zeros((8, 10, 3), np.uint8))[1].tobytes(),
            "segment": cv2.imencode(extension, label)[1].ravel(),
            "bbox": np.arange(12, dtype=np.float32).reshape(3, 4),
            "clazz": np.array([20, 50, 90], np.uint8),
        }
        for extension in (".webp", ".png")
    ]
    published(tmp_path / "a.lmdb", records)
    transforms = [CenterCrop(["segment"], [4, 10])]  # rows 2..5: the first and the last object are gone
    for index in range(2):
        whole = COCO("a.lmdb", ["segment", "category"], data_dir=str(tmp_path)).sample(index, RNG)
        assert whole["segment"].unique().tolist() == [0, 1, 2, 3] and whole["category"].tolist() == [20, 50, 90]
        part = COCO("a.lmdb", ["segment", "category", "box", "is_thing"], transforms, data_dir=str(tmp_path))
        sample = part.sample(index, RNG)
        assert sample["segment"].unique().tolist() == [0, 1] and sample["category"].tolist() == [50]
        assert sample["is_thing"].tolist() == [True]
    with pytest.raises(DataError, match="things only: use instance=True"):
        COCO("a.lmdb", ["segment"], instance=False, data_dir=str(tmp_path))


# ------------------------------------------------------------------------------------------------------------ dataset


def test_only_what_is_asked_for_is_delivered(converted):
    sample = COCO("train.lmdb", ["image"], data_dir=str(converted)).sample(0, RNG)
    assert sample.keys() == {"image", "index"}
    sample = COCO("train.lmdb", ["segment"], data_dir=str(converted)).sample(1, RNG)
    assert sample.keys() == {"segment", "index"} and sample["index"] == 1


def test_keys_are_checked(converted):
    with pytest.raises(DataError, match="offers no key 'segmnt'; did you mean 'segment'"):
        COCO("train.lmdb", ["segmnt"], data_dir=str(converted))
    with pytest.raises(DataError, match="add 'segment'"):
        COCO("train.lmdb", ["image", "box"], data_dir=str(converted))


def test_training_transforms(converted):
    keys = ["image", "segment"]
    transforms = [
        RandomCrop(keys),
        Resize(["image"], 64),
        Resize(["segment"], 64, "nearest-exact"),
        RandomFlip(keys),
    ]
    dataset = COCO("train.lmdb", [*keys, "box", "category"], transforms, data_dir=str(converted))
    for index in range(len(dataset)):
        sample = dataset.sample(index, np.random.default_rng(index))
        assert sample["image"].shape == (3, 64, 64) and sample["segment"].shape == (64, 64)
        assert len(sample["box"]) == len(sample["category"]) == sample["segment"].max()
        assert (sample["box"][:, 2:] >= sample["box"][:, :2]).all()
