"""ClevrTex: conversion of the raw layout, and published files, against the reference's numbers."""

import functools
import io
import shutil

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from object_centric_bench.datum.clevrtex import ClevrTex, convert
from object_centric_bench.datum.lmdb import Reader
from object_centric_bench.datum.palette import decode_objects, number_objects
from object_centric_bench.datum.record import DataError
from object_centric_bench.recipe.dataset import clevrtex as recipe
from object_centric_bench.registry import build
from tests.conftest import require

from .stores import published

RNG = np.random.default_rng(0)
ALL = ["image", "segment", "depth"]


@pytest.fixture(scope="module")
def converted(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clevrtex")
    convert(raw / "clevrtex", folder)
    return folder


@pytest.fixture
def broken(raw, tmp_path):
    """A copy of the raw data that a test may damage."""
    return shutil.copytree(raw / "clevrtex", tmp_path / "raw", copy_function=shutil.copyfile)


def picture(array, mode=None):
    stream = io.BytesIO()
    Image.fromarray(array, mode).save(stream, "PNG")
    return stream.getvalue()


# -------------------------------------------------------------------------------------------------------- conversion


@pytest.mark.parity
@pytest.mark.parametrize("split", ["train", "val"])
def test_records_equal_the_expected_ones(raw, converted, split):
    expected = np.load(raw / "expected" / f"clevrtex_{split}.npz")
    names = sorted(key for key in expected.files if key.startswith("name_"))
    dataset = ClevrTex(f"{split}.lmdb", ALL, data_dir=str(converted))
    assert len(dataset) == len(names)
    for index in range(len(dataset)):
        sample = dataset.sample(index, RNG)
        name = dataset.source_id(index)
        assert name == expected[f"name_{index:03d}"]
        np.testing.assert_array_equal(sample["segment"], expected[f"segment_{index:03d}"])
        np.testing.assert_array_equal(sample["depth"], expected[f"depth_{index:03d}"])
        assert sample["segment"].dtype == sample["depth"].dtype == torch.uint8
        files = raw / "clevrtex" / f"clevrtex_{'full' if split == 'train' else 'outd'}" / "0"
        stored = dataset.reader.read(index)
        assert stored["image"] == (files / f"{name}.png").read_bytes()
        assert stored["depth"] == (files / f"{name}_depth_0001.png").read_bytes()
        rgb = np.array(Image.open(files / f"{name}.png"))[:, :, :3]
        np.testing.assert_array_equal(sample["image"].permute(1, 2, 0), rgb)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_change_no_byte(raw, converted, tmp_path, workers):
    convert(raw / "clevrtex", tmp_path, workers=workers)
    for name in ("train.lmdb", "val.lmdb"):
        assert (tmp_path / name).read_bytes() == (converted / name).read_bytes()


def test_variants_and_limit(raw, tmp_path):
    convert(raw / "clevrtex", tmp_path, train_variant="outd", val_variant="full", limit=2)
    headers = [Reader(tmp_path / f"{split}.lmdb", "clevrtex").header for split in ("train", "val")]
    assert [header.attributes["source"] for header in headers] == ["ClevrTex outd", "ClevrTex full"]
    assert [header.num_samples for header in headers] == [2, 2] and headers[0].attributes["limit"] == 2


@pytest.fixture(scope="module")
def twenty(raw, tmp_path_factory):
    """Twenty scenes whose folders, sorted as texts, are in another order than their numbers."""
    folder = tmp_path_factory.mktemp("twenty")
    for number in range(0, 20000, 1000):
        target = folder / "clevrtex_full" / str(number // 1000)
        target.mkdir(parents=True)
        for file in (raw / "clevrtex/clevrtex_full/0").glob("CLEVRTEX_full_000003*.png"):
            shutil.copyfile(file, target / file.name.replace("000003", f"{number:06d}"))
    return folder


def ids(file):
    dataset = ClevrTex(file.name, ["image"], data_dir=str(file.parent))
    return [int(dataset.source_id(index)[-6:]) // 1000 for index in range(len(dataset))]


def test_the_official_split_is_by_scene_number(twenty, tmp_path):
    convert(twenty, tmp_path, split=("train", "val", "test"), clevrtex_split="official")
    assert ids(tmp_path / "test.lmdb") == [0, 1]
    assert ids(tmp_path / "val.lmdb") == [2, 3]
    assert ids(tmp_path / "train.lmdb") == list(range(4, 20))
    attributes = Reader(tmp_path / "test.lmdb", "clevrtex").header.attributes
    assert attributes["clevrtex_split"] == "official" and attributes["split"] == "test"


def test_the_official_split_does_not_depend_on_bad_scenes(twenty, tmp_path):
    source = shutil.copytree(twenty, tmp_path / "raw")
    (source / "clevrtex_full/2/CLEVRTEX_full_002000_flat.png").unlink()
    convert(source, tmp_path, split=("train", "val"), clevrtex_split="official", skip_bad=True)
    assert ids(tmp_path / "val.lmdb") == [3] and ids(tmp_path / "train.lmdb") == list(range(4, 20))


def test_the_reference_split_keeps_the_order_of_the_numbers(twenty, tmp_path):
    convert(twenty, tmp_path, split=("train",))
    assert ids(tmp_path / "train.lmdb") == list(range(20))


def test_counts_of_the_official_download(raw, twenty, tmp_path, caplog):
    convert(raw / "clevrtex", tmp_path / "a")
    convert(twenty, tmp_path / "b", split=("val",), clevrtex_split="official")
    assert "has 6 samples, the official download 50000" in caplog.text
    assert "has 3 samples, the official download 10000" in caplog.text
    assert "has 2 samples, the official download 5000" in caplog.text


LABELS = st.lists(st.lists(st.integers(0, 9), min_size=5, max_size=5), min_size=1, max_size=5)


@settings(deadline=None, max_examples=60)
@given(LABELS, st.lists(st.integers(0, 2**24 - 1), min_size=10, max_size=10))
def test_objects_are_numbered_by_colour(rows, colours):
    index = np.array(rows, np.uint8)
    segment = number_objects(index, np.array(colours + [0] * 246, np.uint32))
    assert ((segment == 0) == (index == 0)).all()
    found = sorted(set(index[index > 0].tolist()), key=lambda old: (colours[old], old))
    for new, old in enumerate(found, 1):
        assert ((segment == new) == (index == old)).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_label_pictures_in_colours_give_the_same(raw, channels):
    file = raw / "clevrtex/clevrtex_full/0/CLEVRTEX_full_000004_flat.png"
    expected = np.load(raw / "expected/clevrtex_train.npz")["segment_004"]
    colours = np.array(Image.open(file).convert("RGB" if channels == 3 else "RGBA"))
    np.testing.assert_array_equal(decode_objects(picture(colours), file), expected)


def test_depth_of_several_channels(broken, tmp_path):
    file = broken / "clevrtex_full/0/CLEVRTEX_full_000000_depth_0001.png"
    first = np.array(Image.open(file))
    file.write_bytes(picture(np.stack([first, first // 2, 255 - first], axis=2)))
    convert(broken, tmp_path / "out", split=("train",), limit=1)
    sample = ClevrTex("train.lmdb", ALL, data_dir=str(tmp_path / "out")).sample(0, RNG)
    np.testing.assert_array_equal(sample["depth"], first)


# --------------------------------------------------------------------------------------------------------- bad input

ONE = "clevrtex_full/0/CLEVRTEX_full_000002"


def rewrite(suffix, content, folder):
    file = folder / f"{ONE}{suffix}"
    file.write_bytes(content(file.read_bytes()) if callable(content) else content)


def change(suffix, content):
    return functools.partial(rewrite, suffix, content)


def remove(suffix):
    return lambda folder: (folder / f"{ONE}{suffix}").unlink()


def empty(folder):
    shutil.rmtree(folder / "clevrtex_full/0")


WRONG = {  # nothing to go on with
    "no source": (lambda f: shutil.rmtree(f), r"clevrtex_full is missing.*is no folder"),
    "no variant": (
        lambda f: shutil.rmtree(f / "clevrtex_outd"), r"clevrtex_outd is missing.*holds clevrtex_full.*convert.py"
    ),
    "no scene": (empty, r"clevrtex_full holds no CLEVRTEX_full_<6 digits>.png"),
    "twice": (
        lambda f: shutil.copytree(f / "clevrtex_full/0", f / "clevrtex_full/1"), r"CLEVRTEX_full_00000\d lies in .* and"
    ),
}  # fmt: skip
HALF = lambda content: content[: len(content) // 2]  # noqa: E731
NO_END = lambda content: content[:-12]  # noqa: E731
SMALL = np.zeros((24, 32), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (240, 320), dtype=np.uint8)
BAD = {
    "no image": (remove(".png"), r"missing: .*000002.png"),
    "no label": (remove("_flat.png"), r"missing: .*000002_flat.png"),
    "no depth": (remove("_depth_0001.png"), r"missing: .*000002_depth_0001.png"),
    "image cut": (change(".png", HALF), r"000002.png is cut off"),
    "image without end": (change(".png", NO_END), r"000002.png is cut off"),
    "label cut": (change("_flat.png", HALF), r"000002_flat.png is cut off"),
    "depth cut": (change("_depth_0001.png", HALF), r"000002_depth_0001.png is cut off"),
    "image damaged": (change(".png", lambda c: c[:9000] + bytes(99) + c[9099:]), r"000002.png is damaged, a checksum"),
    "a picture in its place": (change("_flat.png", lambda c: picture(NOISE)), r"_flat.png holds \d+ objects"),
    "image empty": (change(".png", b""), r"000002.png is empty"),
    "label empty": (change("_flat.png", b""), r"000002_flat.png is empty"),
    "depth empty": (change("_depth_0001.png", b""), r"000002_depth_0001.png is empty"),
    "no picture": (change(".png", b"<html>not found</html>"), r"000002.png is no PNG"),
    "no label picture": (change("_flat.png", b"<html>not found</html>"), r"000002_flat.png is no PNG"),
    "only a header": (change("_flat.png", b"\x89PNG\r\n\x1a\nIEND"), r"000002_flat.png is"),
    "label size": (change("_flat.png", picture(SMALL)), r"000002.png has 320x240 pixels, .*_flat.png 32x24"),
    "depth size": (change("_depth_0001.png", picture(SMALL)), r"has 320x240 pixels, .*_depth_0001.png 32x24"),
    "label of 16 bits": (change("_flat.png", picture(SMALL.astype(np.uint16))), r"_flat.png has mode I;16"),
    "depth of 16 bits": (change("_depth_0001.png", picture(SMALL.astype(np.uint16))), r"depth_0001.png has mode I;16"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_wrong_sources_are_found_before_anything_is_written(broken, tmp_path, case, skip_bad):
    damage, text = WRONG[case]
    damage(broken)
    with pytest.raises(DataError, match=text):
        convert(broken, tmp_path / "out", skip_bad=skip_bad)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", BAD)
def test_bad_scenes_stop_or_are_left_out(broken, tmp_path, case):
    damage, text = BAD[case]
    damage(broken)
    with pytest.raises(DataError, match=rf"{text}[\s\S]*--skip_bad"):
        convert(broken, tmp_path, split=("train",))
    assert not (tmp_path / "train.lmdb").exists()
    convert(broken, tmp_path, split=("train",), skip_bad=True)
    dataset = ClevrTex("train.lmdb", ALL, data_dir=str(tmp_path))
    assert [dataset.source_id(index)[-1] for index in range(len(dataset))] == list("01345")
    [message] = dataset.reader.header.attributes["left_out"]
    assert "CLEVRTEX_full_000002" in message


@pytest.mark.parametrize(
    "options, text",
    [
        (dict(split=("test",)), "there is no split 'test'; known are train, val"),
        (dict(clevrtex_split="official", val_variant="camo"), "leave out --train_variant, --val_variant"),
        (dict(clevrtex_split="offical"), "known are reference, official"),
        (dict(clevrtex_split="official", split=("test",)), "too few scenes for the split test"),
        (dict(val_variant="camo"), r"clevrtex_camo is missing.*holds clevrtex_full, clevrtex_outd"),
    ],
)
def test_wrong_options(raw, tmp_path, options, text):
    with pytest.raises(DataError, match=text):
        convert(raw / "clevrtex", tmp_path / "out", **options)


# -------------------------------------------------------------------------------------------------- published files


def rank(segment):
    """Number as the reference does: without background the first object becomes 0."""
    return np.unique(segment, return_inverse=True)[1].reshape(segment.shape)


@pytest.mark.parity
@pytest.mark.parametrize("split", ["train", "val"])
def test_published_files(golden, split):
    folder = require(golden / "lmdb" / "clevrtex")
    expected = np.load(folder / "expected.npz")
    dataset = ClevrTex(f"{split}.lmdb", ALL, data_dir=str(folder))
    assert len(dataset) == sum(key.startswith(f"{split}.") and key.endswith(".image") for key in expected.files)
    for index in range(len(dataset)):
        sample = dataset.sample(index, RNG)
        np.testing.assert_array_equal(sample["image"], expected[f"{split}.{index}.image"])
        np.testing.assert_array_equal(sample["depth"], expected[f"{split}.{index}.depth"])
        np.testing.assert_array_equal(rank(sample["segment"]), expected[f"{split}.{index}.segment"])
        background = expected[f"{split}_raw_segment.{index}.segment"] == 0
        np.testing.assert_array_equal(sample["segment"] == 0, background)
        assert dataset.source_id(index) == f"{index:06d}"


@pytest.mark.parametrize("extension", [".webp", ".png"])
def test_published_files_of_both_encodings(raw, converted, tmp_path, extension):
    expected = np.load(raw / "expected/clevrtex_train.npz")
    ours = ClevrTex("train.lmdb", ALL, data_dir=str(converted))
    encoded = [
        {key: cv2.imencode(extension, expected[f"{key}_{index:03d}"])[1] for key in ("segment", "depth")}
        for index in range(len(ours))
    ]
    records = [{"image": ours.reader.read(index)["image"], **each} for index, each in enumerate(encoded)]
    published(tmp_path / "a.lmdb", records)
    theirs = ClevrTex("a.lmdb", ALL, data_dir=str(tmp_path))
    for index in range(len(ours)):
        for key in ALL:
            assert torch.equal(theirs.sample(index, RNG)[key], ours.sample(index, RNG)[key])


@pytest.mark.parity
def test_published_files_of_other_datasets_are_refused(golden):
    with pytest.raises(DataError, match=r"another dataset, its records hold image, segment; make: .*clevrtex"):
        ClevrTex("train.lmdb", ["image"], data_dir=str(require(golden / "lmdb" / "voc")))


# ------------------------------------------------------------------------------------------------------------ dataset


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 5), st.integers(0, 230), st.integers(0, 310), st.integers(1, 120), st.integers(1, 120))
def test_background_stays_0_in_every_crop(converted, index, top, left, height, width):
    window = slice(top, top + height), slice(left, left + width)
    dataset = ClevrTex("train.lmdb", ["segment"], data_dir=str(converted))
    before = dataset.sample(index, RNG)["segment"][window]
    dataset.transforms = [lambda sample, rng: {"segment": sample["segment"][window]}]
    part = dataset.sample(index, RNG)
    assert torch.equal(part["segment"] == 0, before == 0)
    old = before.unique()[before.unique() > 0]
    assert part["segment"].unique()[part["segment"].unique() > 0].tolist() == list(range(1, len(old) + 1))
    for new, was in enumerate(old, 1):
        assert torch.equal(part["segment"] == new, before == was)


def test_recipe(converted):
    section = recipe(64, batch_size=2)
    section["train"]["file"] = "train.lmdb"
    dataset = build(section["train"], "dataset.train", data_dir=str(converted))
    sample = dataset.sample(0, np.random.default_rng(0))
    assert sample["image"].shape == (3, 64, 64) and sample["segment"].shape == (64, 64)
    assert build({**section["train"], "keys": ["image"], "transforms": []}, "x", data_dir=str(converted)).keys == [
        "image"
    ]
