"""MOVi: conversion of the official TFRecord files against known numbers, and the dataset."""

import numpy as np
import pytest
import torch

from object_centric_bench.datum import movi_source
from object_centric_bench.datum.flow import decode_flow
from object_centric_bench.datum.lmdb import Reader
from object_centric_bench.datum.movi import MOVi, convert
from object_centric_bench.datum.record import DataError
from object_centric_bench.datum.transform import CenterCrop

from .examples import SOURCES, TRAIN, samples_equal, scene, write_scenes

RNG = np.random.default_rng(0)
ALL = list(MOVi.offered)


# -------------------------------------------------------------------------------------------------------- conversion


@pytest.mark.parity
@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("split", ["train", "val"])
def test_records_equal_the_expected_ones(raw, movi_converted, name, split):
    files = (raw / "movi/expected" / name).glob("train_*" if split == "train" else "validation_*")
    files = sorted(files, key=lambda file: int(file.stem.split("_")[1]))
    dataset = MOVi(f"{split}.lmdb", ALL, data_dir=str(movi_converted / name))
    assert len(dataset) == len(files) > 0
    for index, file in enumerate(files):
        expected, sample = np.load(file), dataset.sample(index, RNG)
        assert dataset.source_id(index) == expected["video_name"]
        np.testing.assert_array_equal(sample["video"].permute(0, 2, 3, 1), expected["video"])
        np.testing.assert_array_equal(sample["segment"], expected["segment"])
        np.testing.assert_array_equal(sample["box"], expected["bbox"])
        np.testing.assert_array_equal(sample["visibility"].T, expected["visibility"])
        np.testing.assert_array_equal(sample["category"], expected["category"])
        stored = dataset.reader.read(index)
        for ours, theirs in (("backward_flow", "flow"), ("forward_flow", "fflow"), ("depth", "depth")):
            bounds = expected[f"{theirs}_range"]
            np.testing.assert_array_equal(stored[f"{ours}_range"], bounds)
            numbers = expected[theirs].astype(np.float32)
            values = numbers / np.float32(65535) * (bounds[1] - bounds[0]) + bounds[0]
            ours = sample[ours].permute(0, 2, 3, 1) if numbers.ndim == 4 else sample[ours][:, 0]
            np.testing.assert_array_equal(ours, values)
        flows = [decode_flow(planes, "") for planes in stored["forward_flow"]]
        np.testing.assert_array_equal(np.moveaxis(flows, 1, 3), expected["fflow"])
        types = {key: sample[key].dtype for key in ALL}
        assert types == dict(
            video=torch.uint8, segment=torch.uint8, box=torch.float32, visibility=torch.int32, category=torch.int64,
            forward_flow=torch.float32, backward_flow=torch.float32, depth=torch.float32,
        )  # fmt: skip
        assert all(sample[key].is_contiguous() for key in ALL)


def test_what_is_stored(movi_sources, movi_converted):
    stored = MOVi("train.lmdb", ["video"], data_dir=str(movi_converted / "movi_d/64x64")).reader
    folder = movi_sources / "movi_d/64x64/1.0.0"
    for index in range(4):
        record, official = stored.read(index), scene(folder, index)
        assert record["video"] == official["video"] and record["depth"] == official["depth"]  # to the byte
        assert record["visibility"].dtype == np.uint16 and record["category"].dtype == np.int64
    assert stored.header.attributes == {"source": "movi_d", "size": [24, 64, 64], "split": "train", "limit": None}


def test_any_number_of_workers_writes_the_same_bytes(movi_sources, movi_converted, tmp_path):
    for workers in (1, 2, 4):
        convert(movi_sources / "movi_d/64x64", tmp_path / str(workers), workers=workers)
        for name in ("train.lmdb", "val.lmdb"):
            ours = tmp_path / str(workers) / name
            assert ours.read_bytes() == (movi_converted / "movi_d/64x64" / name).read_bytes()


def test_limit_and_split(movi_sources, tmp_path):
    convert(movi_sources / "movi_d/32x32", tmp_path, split=("train",), limit=3)
    assert [path.name for path in tmp_path.iterdir()] == ["train.lmdb"]
    header = Reader(tmp_path / "train.lmdb", "movi").header
    assert header.num_samples == 3 and header.attributes["limit"] == 3


def test_several_files_are_read_in_order(movi_broken, movi_converted, tmp_path, caplog):
    """Also without the json files, for --limit without the files behind, and with a record without category."""
    scenes = [scene(movi_broken, index) for index in range(4)]
    del scenes[3]["instances/category"]
    for name in ("dataset_info.json", "features.json", TRAIN):
        (movi_broken / name).unlink()
    parts = [movi_broken / f"movi_d-train.tfrecord-{number:05d}-of-00003" for number in range(3)]
    for part, some in zip(parts, (scenes[:1], scenes[1:3], scenes[3:]), strict=True):
        write_scenes(part, some)
    convert(movi_broken, tmp_path / "whole", split=("train",))
    ours, theirs = (
        MOVi("train.lmdb", ALL[:-1], data_dir=str(folder))
        for folder in (tmp_path / "whole", movi_converted / "movi_d/32x32")
    )
    assert ours.reader.header.attributes["size"] == [24, 32, 32]
    for index in range(4):
        samples_equal(ours.sample(index, RNG), theirs.sample(index, RNG), ALL[:-1])
        assert ours.source_id(index) == theirs.source_id(index)
    category = MOVi("train.lmdb", ["category"], data_dir=str(tmp_path / "whole"))
    assert len(category.sample(2, RNG)["category"]) > 0
    with pytest.raises(DataError, match="sample 3: there is no 'category'"):
        category.sample(3, RNG)

    parts[2].unlink()
    convert(movi_broken, tmp_path / "part", split=("train",), limit=3)
    with pytest.raises(DataError, match=r"train.tfrecord-00002-of-00003 is missing"):
        convert(movi_broken, tmp_path / "all", split=("train",))
    convert(movi_broken, tmp_path / "skipped", split=("train",), skip_bad=True)
    header = Reader(tmp_path / "skipped/train.lmdb").header
    assert header.num_samples == 3 and "00002-of-00003 is missing" in header.attributes["left_out"][0]


def test_the_folder_is_found(movi_sources, tmp_path):
    with pytest.raises(DataError, match=r"several datasets.*(\n  .*/1\.0\.0){4}"):
        convert(movi_sources, tmp_path)
    assert movi_source.find_folder(movi_sources / "movi_c") == movi_sources / "movi_c/64x64/1.0.0"
    assert movi_source.find_folder(movi_sources / "movi_c/64x64/1.0.0") == movi_sources / "movi_c/64x64/1.0.0"
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mnist.zip").touch()
    with pytest.raises(DataError, match=r"neither .* nor a folder below it.*holds mnist.zip.*convert.py movi --help"):
        convert(tmp_path / "other", tmp_path / "out")
    with pytest.raises(DataError, match=r"the folder .*nowhere is missing"):
        convert(tmp_path / "nowhere", tmp_path / "out")


# ----------------------------------------------------------------------------------------------------------- dataset


def test_boxes_keep_to_their_segments(movi_converted):
    """The middle of the picture shows some objects only: ids stay, row k of the boxes is still object k + 1."""
    folder = str(movi_converted / "movi_d/64x64")
    keys = ["video", "segment", "box"]
    whole = MOVi("val.lmdb", keys, data_dir=folder)
    part = MOVi("val.lmdb", keys, [CenterCrop(["video", "segment"], 16)], data_dir=folder)
    lost = 0
    for index in range(len(whole)):
        before, after = whole.sample(index, RNG), part.sample(index, RNG)
        assert torch.equal(after["segment"], before["segment"][:, 24:40, 24:40])
        assert after["box"].shape == before["box"].shape
        ids = set(after["segment"].unique().tolist())
        lost += len(set(range(1, len(before["box"][0]) + 1)) - ids)
        for t, frame_segment in enumerate(after["segment"]):
            for identity in set(frame_segment.unique().tolist()) - {0}:
                assert after["box"][t, identity - 1].any()
    assert lost > 3


def test_keys_are_checked(movi_converted):
    with pytest.raises(DataError, match=r"offers no key 'flow'; .*forward_flow"):
        MOVi("train.lmdb", ["flow"], data_dir=str(movi_converted / "movi_d/64x64"))
