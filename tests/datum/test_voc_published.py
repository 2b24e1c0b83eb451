"""PASCAL VOC: published files of both label schemes, against the reference's numbers."""

import cv2
import numpy as np
import pytest
import torch

from object_centric_bench.datum.record import DataError
from object_centric_bench.datum.voc import VOC, convert
from tests.conftest import require

from .stores import published

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def converted(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc")
    convert(raw / "voc", folder)
    return folder


def rank(segment):
    """Number as the reference does: without background the first object becomes 0."""
    return np.unique(segment, return_inverse=True)[1].reshape(segment.shape)


@pytest.mark.parity
@pytest.mark.parametrize("split", ["train", "val"])
def test_published_files(golden, split):
    folder = require(golden / "lmdb" / "voc")
    expected = np.load(folder / "expected.npz")
    dataset = VOC(f"{split}.lmdb", ["image", "segment"], labels="merged", data_dir=str(folder))
    assert len(dataset) == sum(key.startswith(f"{split}.") and key.endswith(".image") for key in expected.files)
    for index in range(len(dataset)):
        sample = dataset.sample(index, RNG)
        np.testing.assert_array_equal(rank(sample["segment"]), expected[f"{split}.{index}.segment"])
        stored = cv2.imdecode(dataset.reader.read(index)["segment"], cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(sample["segment"] == 0, stored == 0)
        difference = sample["image"].int() - torch.from_numpy(expected[f"{split}.{index}.image"]).int()
        assert difference.abs().max() <= 2
        assert dataset.source_id(index) == f"{index:06d}"


@pytest.fixture(params=[".webp", ".png"])
def theirs(request, raw, converted, tmp_path):
    """The raw data as published files of both label schemes."""
    expected = np.load(raw / "expected/voc_train.npz")
    ours = VOC("train.lmdb", ["image"], data_dir=str(converted))
    for labels in ("merged", "border0"):
        records = []
        for index in range(len(ours)):
            segment, border = expected[f"segment_{index:03d}"], expected[f"index_{index:03d}"] == 255
            label = segment if labels == "merged" else np.where(border, 0, segment + 1).astype(np.uint8)
            encoded = cv2.imencode(request.param, label)[1].ravel()
            records.append({"image": ours.reader.read(index)["image"], "segment": encoded})
        published(tmp_path / f"{labels}.lmdb", records)
    return tmp_path


@pytest.mark.parametrize("labels", ["merged", "border0"])
def test_published_files_of_both_schemes(theirs, converted, labels, caplog):
    keys = ["image", "segment"] + (["ignore"] if labels == "border0" else [])
    ours = VOC("train.lmdb", keys, data_dir=str(converted))
    dataset = VOC(f"{labels}.lmdb", keys, labels=labels, data_dir=str(theirs))
    for index in range(len(ours)):
        for key, value in ours.sample(index, RNG).items():
            other = dataset.sample(index, RNG)[key]
            assert torch.equal(other, value) and other.dtype == value.dtype if key != "index" else other == value
    assert not caplog.records


def test_a_wrong_scheme_is_noticed(theirs, caplog):
    VOC("border0.lmdb", ["segment"], labels="merged", data_dir=str(theirs))
    [record] = caplog.records
    assert "only thin lines" in record.message and "labels=border0 seems to be right" in record.message
    caplog.clear()
    VOC("merged.lmdb", ["segment"], labels="border0", data_dir=str(theirs))
    [record] = caplog.records
    assert "wide regions" in record.message and "labels=merged seems to be right" in record.message


def test_a_file_without_label_0_is_not_judged(tmp_path, caplog):
    label = np.ones((40, 30), np.uint8)
    record = {"image": cv2.imencode(".jpg", label)[1].tobytes(), "segment": cv2.imencode(".png", label)[1]}
    published(tmp_path / "a.lmdb", [record])
    for labels in ("merged", "border0"):
        VOC("a.lmdb", ["segment"], labels=labels, data_dir=str(tmp_path))
    assert not caplog.records


def test_the_scheme_must_be_said(theirs, converted):
    with pytest.raises(DataError, match=r"labels=merged \(files of 2025.*labels=border0 \(files of 2026"):
        VOC("merged.lmdb", ["segment"], data_dir=str(theirs))
    with pytest.raises(DataError, match="labels is 'boarder'; known are merged, border0"):
        VOC("merged.lmdb", ["segment"], labels="boarder", data_dir=str(theirs))
    with pytest.raises(DataError, match=r"in our format.*leave out labels='merged'"):
        VOC("train.lmdb", ["segment"], labels="merged", data_dir=str(converted))
    assert VOC("merged.lmdb", ["image"], data_dir=str(theirs)).sample(0, RNG)["image"].shape == (3, 375, 500)


def test_what_published_files_lack_is_said_at_once(theirs, golden):
    with pytest.raises(DataError, match=r"without 'ignore', its records hold image, segment; make: .*convert.py voc"):
        VOC("merged.lmdb", ["segment", "ignore"], labels="merged", data_dir=str(theirs))
    with pytest.raises(DataError, match=r"without 'semantic'"):
        VOC("border0.lmdb", ["segment", "semantic"], labels="border0", data_dir=str(theirs))
    for name in ("clevrtex", "coco"):
        with pytest.raises(DataError, match=r"published file of another dataset"):
            VOC("train.lmdb", ["image"], data_dir=str(require(golden / "lmdb" / name)))
