"""PASCAL VOC: conversion of the raw layout against the expected numbers, bad input, crops, the recipe."""

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

from object_centric_bench.datum.lmdb import Reader
from object_centric_bench.datum.loader import eval_batches
from object_centric_bench.datum.record import DataError
from object_centric_bench.datum.transform import CenterCrop
from object_centric_bench.datum.voc import VOC, convert, find_categories
from object_centric_bench.learn.metric import Segmentation
from object_centric_bench.recipe import dataset as recipe
from object_centric_bench.recipe import learn
from object_centric_bench.registry import build

RNG = np.random.default_rng(0)
ALL = ["image", "segment", "ignore", "semantic", "category"]
SPLITS = {"train": "VOC2012", "val": "VOC2007"}


@pytest.fixture(scope="module")
def converted(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc")
    convert(raw / "voc", folder)
    return folder


@pytest.fixture
def broken(raw, tmp_path):
    """A copy of the raw data that a test may damage."""
    return shutil.copytree(raw / "voc" / "VOCdevkit", tmp_path / "raw", copy_function=shutil.copyfile)


def ids(file):
    dataset = VOC(file.name, ["image"], data_dir=str(file.parent))
    return [dataset.source_id(index) for index in range(len(dataset))]


# -------------------------------------------------------------------------------------------------------- conversion


@pytest.mark.parity
@pytest.mark.parametrize("split", SPLITS)
def test_records_equal_the_expected_ones(raw, converted, split):
    expected = np.load(raw / "expected" / f"voc_{split}.npz")
    names = sorted(key for key in expected.files if key.startswith("name_"))
    dataset = VOC(f"{split}.lmdb", ALL, data_dir=str(converted))
    assert len(dataset) == len(names)
    for index in range(len(dataset)):
        sample = dataset.sample(index, RNG)
        name = dataset.source_id(index)
        assert name == expected[f"name_{index:03d}"]
        np.testing.assert_array_equal(sample["segment"], expected[f"segment_{index:03d}"])
        np.testing.assert_array_equal(sample["ignore"], expected[f"index_{index:03d}"] == 255)
        assert sample["segment"].dtype == sample["semantic"].dtype == torch.uint8
        assert sample["ignore"].dtype == torch.bool and sample["category"].dtype == torch.int64
        folder = raw / "voc/VOCdevkit" / SPLITS[split]
        classes = np.array(Image.open(folder / "SegmentationClass" / f"{name}.png"))
        np.testing.assert_array_equal(sample["semantic"], np.where(classes == 255, 0, classes))
        assert len(sample["category"]) == sample["segment"].max()
        for number, category in enumerate(sample["category"].tolist(), 1):
            values, counts = np.unique(classes[sample["segment"] == number], return_counts=True)
            assert category == values[counts.argmax()] and 1 <= category <= 20
        file = folder / "JPEGImages" / f"{name}.jpg"
        assert dataset.reader.read(index)["image"] == file.read_bytes()
        picture = cv2.imread(str(file), cv2.IMREAD_COLOR)[:, :, ::-1]
        np.testing.assert_array_equal(sample["image"].permute(1, 2, 0), picture)


def test_objects_from_the_36th_on_keep_their_pixels(broken, tmp_path):
    """Their palette colours share a channel with the border's, which the reference takes for the border."""
    file = broken / "VOC2012/SegmentationObject/2012_900003.png"
    picture = Image.open(file)
    index = np.array(picture)
    index[index == 1], index[index == 2] = 36, 39
    changed = Image.fromarray(index, "P")
    changed.putpalette(picture.getpalette())
    changed.save(file)
    convert(broken, tmp_path, split=("train",), limit=1)
    segment = VOC("train.lmdb", ["segment"], data_dir=str(tmp_path)).sample(0, RNG)["segment"].numpy()
    assert ((segment == 0) == np.isin(index, [0, 255])).all()
    assert segment.max() == 3 and all(len(np.unique(segment[index == old])) == 1 for old in (3, 36, 39))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_change_no_byte(raw, converted, tmp_path, workers):
    convert(raw / "voc", tmp_path, workers=workers)
    for name in ("train.lmdb", "val.lmdb"):
        assert (tmp_path / name).read_bytes() == (converted / name).read_bytes()


def test_the_official_split_follows_the_lists(raw, tmp_path, caplog):
    convert(raw / "voc", tmp_path, voc_split="official")
    for split in SPLITS:
        listed = (raw / f"voc/VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt").read_text().split()
        assert ids(tmp_path / f"{split}.lmdb") == listed
        assert Reader(tmp_path / f"{split}.lmdb", "voc").header.attributes["voc_split"] == "official"
    assert not set(ids(tmp_path / "train.lmdb")) & set(ids(tmp_path / "val.lmdb"))
    assert "leaks" not in caplog.text
    assert "3 samples, the official download 1464" in caplog.text and "download 1449" in caplog.text


def test_the_split_of_the_reference_is_said_to_leak(broken, tmp_path, caplog):
    """Two of the three VOC2007 images get a copy in VOC2012, as all have in the official archives."""
    for kind, end in (("JPEGImages", "jpg"), ("SegmentationObject", "png"), ("SegmentationClass", "png")):
        for name in ("900005", "900012"):
            source = broken / "VOC2007" / kind / f"{name}.{end}"
            shutil.copyfile(source, broken / "VOC2012" / kind / f"2007_{name}.{end}")
    convert(broken, tmp_path)
    assert "leaks: of 3 validation images 2 are training images too" in caplog.text
    assert "--voc_split official" in caplog.text
    assert "8 samples" not in caplog.text and "7 samples, the official download 2913" in caplog.text
    assert "3 samples, the official download 422" in caplog.text
    attributes = Reader(tmp_path / "val.lmdb", "voc").header.attributes
    assert attributes["voc_split"] == "reference" and attributes["in_train"] == 2


def test_categories():
    segment = np.array([[0, 1, 1, 1, 2, 2, 3]], np.uint8)
    semantic = np.array([[5, 0, 7, 7, 20, 3, 0]], np.uint8)
    assert find_categories(segment, semantic).tolist() == [7, 3, 0]  # of equally many the first, of none 0
    assert find_categories(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8)).tolist() == []


# --------------------------------------------------------------------------------------------------------- bad input

KINDS = {"image": "JPEGImages", "objects": "SegmentationObject", "classes": "SegmentationClass"}


def path(folder, kind):
    return folder / "VOC2012" / KINDS[kind] / ("2012_900011" + (".jpg" if kind == "image" else ".png"))


def rewrite(kind, content, folder):
    file = path(folder, kind)
    file.write_bytes(content(file.read_bytes()) if callable(content) else content)


def change(kind, content):
    return functools.partial(rewrite, kind, content)


def remove(kind):
    return lambda folder: path(folder, kind).unlink()


def half(content):
    return content[: len(content) // 2]


def encode(array, form="PNG"):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, form)
    return stream.getvalue()


SMALL = np.zeros((40, 30), np.uint8)
BAD = {
    "no image": (remove("image"), r"missing: .*JPEGImages/2012_900011.jpg"),
    "no class map": (remove("classes"), r"missing: .*SegmentationClass/2012_900011.png"),
    "image cut": (change("image", half), r"2012_900011.jpg is cut off"),
    "objects cut": (change("objects", half), r"Object/2012_900011.png is cut off"),
    "classes cut": (change("classes", half), r"Class/2012_900011.png is cut off"),
    "image empty": (change("image", b""), r"2012_900011.jpg is empty"),
    "objects empty": (change("objects", b""), r"Object/2012_900011.png is empty"),
    "no picture": (change("image", b"<html>not found</html>"), r"2012_900011.jpg is no picture"),
    "no label picture": (change("objects", b"<html>not found</html>"), r"2012_900011.png is no PNG"),
    "image size": (change("image", encode(SMALL, "JPEG")), r"2012_900011.jpg has 30x40 pixels, .*Object.* 375x500"),
    "objects size": (change("objects", encode(SMALL)), r"2012_900011.jpg has 375x500 pixels, .*Object.* 30x40"),
    "classes size": (change("classes", encode(SMALL)), r"2012_900011.jpg has 375x500 pixels, .*Class.* 30x40"),
    "no palette": (change("objects", encode(np.dstack([SMALL] * 3))), r"Object/2012_900011.png has mode RGB"),
    "class": (change("classes", encode(np.full((500, 375), 21, np.uint8))), r"2012_900011.png holds class 21"),
}
LISTED = {
    "no mask": (remove("objects"), r"missing: .*SegmentationObject/2012_900011.png"),
    "only a name": (
        lambda f: (f / "VOC2012/ImageSets/Segmentation/train.txt").open("a").write("2012_123456\n"),
        r"missing: .*JPEGImages/2012_123456.jpg, .*Object/2012_123456.png, .*Class/2012_123456.png",
    ),
}
WRONG = {  # nothing to go on with
    "no source": (shutil.rmtree, "reference", r"VOC2012 is missing.*is no folder"),
    "another folder": (lambda f: (f / "VOC2012").rename(f / "VOC12"), "reference", r"VOC2012 is missing.*holds VOC12"),
    "no year": (lambda f: shutil.rmtree(f / "VOC2007"), "reference", r"VOC2007 is missing.*holds VOC2012"),
    "no images": (lambda f: shutil.rmtree(f / "VOC2012/JPEGImages"), "reference", r"JPEGImages is missing.*ImageSets"),
    "no class maps": (
        lambda f: shutil.rmtree(f / "VOC2012/SegmentationClass"),
        "official",
        r"SegmentationClass is missing",
    ),
    "nothing segmented": (
        lambda f: [file.unlink() for file in (f / "VOC2012/SegmentationObject").iterdir()],
        "reference",
        r"SegmentationObject holds no PNG",
    ),
    "no list": (
        lambda f: (f / "VOC2012/ImageSets/Segmentation/val.txt").unlink(),
        "official",
        r"val.txt is missing. .* holds train.txt, trainval.txt.*convert.py voc --help",
    ),
    "empty list": (
        lambda f: (f / "VOC2012/ImageSets/Segmentation/val.txt").write_text("\n"),
        "official",
        r"val.txt lists no image",
    ),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_wrong_sources_are_found_before_anything_is_written(broken, tmp_path, case, skip_bad):
    damage, voc_split, text = WRONG[case]
    damage(broken)
    with pytest.raises(DataError, match=text):
        convert(broken, tmp_path / "out", voc_split=voc_split, skip_bad=skip_bad)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", [*BAD, *LISTED])
def test_bad_images_stop_or_are_left_out(broken, tmp_path, case):
    damage, text = (BAD | LISTED)[case]
    damage(broken)
    options = dict(split=("train",), voc_split="official" if case in LISTED else "reference")
    with pytest.raises(DataError, match=rf"{text}[\s\S]*--skip_bad"):
        convert(broken, tmp_path, **options)
    assert not (tmp_path / "train.lmdb").exists()
    convert(broken, tmp_path, **options, skip_bad=True)
    left = {"900003", "900020", "900034", "900099"} if case in BAD else {"900003", "900099"}
    left |= {"900011"} if case == "only a name" else set()
    assert {name.removeprefix("2012_") for name in ids(tmp_path / "train.lmdb")} == left
    header = Reader(tmp_path / "train.lmdb", "voc").header
    assert len(header.attributes["left_out"]) == 1 and "2012_" in header.attributes["left_out"][0]


def test_wrong_options(raw, tmp_path):
    with pytest.raises(DataError, match="voc_split is 'offical'; known are reference, official"):
        convert(raw / "voc", tmp_path / "out", voc_split="offical")


# ------------------------------------------------------------------------------------------------------------ dataset


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 4), st.integers(0, 300), st.integers(0, 300), st.integers(1, 200), st.integers(1, 200))
def test_crops_keep_background_rows_and_borders(converted, index, top, left, height, width):
    window = slice(top, top + height), slice(left, left + width)
    dataset = VOC("train.lmdb", ALL, data_dir=str(converted))
    whole = dataset.sample(index, RNG)
    before = {key: whole[key][window] for key in ("segment", "ignore", "semantic")}
    dataset.transforms = [lambda sample, rng: sample | {key: sample[key][window] for key in before}]
    part = dataset.sample(index, RNG)
    assert torch.equal(part["segment"] == 0, before["segment"] == 0)
    assert torch.equal(part["ignore"], before["ignore"]) and torch.equal(part["semantic"], before["semantic"])
    old = before["segment"].unique()[before["segment"].unique() > 0]
    assert len(part["category"]) == part["segment"].max() == len(old)
    for new, was in enumerate(old.tolist(), 1):
        assert torch.equal(part["segment"] == new, before["segment"] == was)
        assert part["category"][new - 1] == whole["category"][was - 1]


def test_keys_are_checked(converted):
    with pytest.raises(DataError, match=r"VOC: keys \['category'\] have a row per segment; add 'segment'"):
        VOC("train.lmdb", ["image", "category"], data_dir=str(converted))
    with pytest.raises(DataError, match="offers no key 'ignored'; did you mean 'ignore'"):
        VOC("train.lmdb", ["ignored"], data_dir=str(converted))


def test_categories_are_padded_in_batches(converted):
    dataset = VOC("train.lmdb", ["segment", "category"], [CenterCrop(["segment"], 64)], data_dir=str(converted))
    [batch] = eval_batches(dataset, 5)
    assert batch["category"].shape == (5, int(batch["segment"].max())) and batch["segment"].shape == (5, 64, 64)


def test_recipe_and_metric(converted):
    """What is predicted on the border costs nothing, unless it is read as background like in the reference."""
    batches, scores = {}, {}
    for legacy in (False, True):
        section = recipe.voc(96, batch_size=2, legacy=legacy)
        for name in ("train", "eval"):
            section[name]["file"] = section[name]["file"].removeprefix("voc/")
        train = build(section["train"], "dataset.train", data_dir=str(converted))
        assert train.sample(0, np.random.default_rng(0)).keys() == {"index", *section["train"]["keys"]}
        batch = next(iter(eval_batches(build(section["eval"], "dataset.eval", data_dir=str(converted)), 3)))
        batches[legacy] = batch
        prediction = batch["segment"].clone()
        prediction[batches[False]["ignore"]] = 99
        part = learn.segmentation("output.mask", [96, 96], ignore=None if legacy else "batch.ignore")
        metric = build(part["metric"][0], "metric")
        assert isinstance(metric, Segmentation)
        scores[legacy] = metric(batch, {"segment": prediction})
    assert batches[False]["ignore"].shape == (3, 96, 96) and batches[False]["ignore"].any()
    assert "ignore" not in batches[True] and torch.equal(batches[True]["segment"], batches[False]["segment"])
    assert all((value == 1).all() and valid.all() for value, valid in scores[False].values())
    assert (scores[True]["ari"][0] < 1).all()


def test_recipe_of_stage_1_reads_no_labels():
    assert recipe.voc(32, 2, segment=False)["train"]["keys"] == ["image"]
    assert "labels" not in recipe.voc(32, 2, segment=False)["train"]
    assert recipe.voc(32, 2)["train"]["labels"] is None
