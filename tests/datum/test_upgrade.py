"""Published files in our format: the same samples, proven; anything else refused."""

import cv2
import numpy as np
import pytest
import torch

from object_centric_bench.datum import upgrade as upgrading
from object_centric_bench.datum.clevrtex import ClevrTex
from object_centric_bench.datum.coco import COCO
from object_centric_bench.datum.lmdb import Reader
from object_centric_bench.datum.movi import MOVi
from object_centric_bench.datum.record import DataError
from object_centric_bench.datum.upgrade import upgrade
from object_centric_bench.datum.voc import VOC
from tests.conftest import require

from .stores import published

RNG = np.random.default_rng(0)
CASES = {
    "clevrtex/train": (ClevrTex, ["image", "segment", "depth"], {}),
    "coco/train": (COCO, ["image", "segment", "box", "category", "is_thing"], {"instance": False}),
    "coco_msf/val": (COCO, ["image", "segment", "category", "is_thing"], {"instance": False}),
    "voc/val": (VOC, ["image", "segment"], {"labels": "merged"}),
    "movi/train": (MOVi, ["video", "segment", "box", "backward_flow", "depth"], {}),
}


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
def test_same_samples(golden, tmp_path, case, caplog):
    cls, keys, options = CASES[case]
    source = require(golden / "lmdb" / f"{case}.lmdb")
    target = tmp_path / "out" / "new.lmdb"
    upgrade(source, target, labels=options.get("labels"), workers=2)
    old = cls(source.name, keys, data_dir=str(source.parent), **options)
    new = cls(target.name, keys, data_dir=str(target.parent), **{k: v for k, v in options.items() if k != "labels"})
    assert len(old) == len(new) > 0 and not new.reader.published
    for index in range(len(old)):
        before, after = old.sample(index, RNG), new.sample(index, RNG)
        for key in keys:
            assert torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype
        assert new.source_id(index) == old.source_id(index)
    assert [path.name for path in target.parent.iterdir()] == ["new.lmdb"]
    assert f"{len(new)} samples, each decodes to the same" in caplog.text
    with pytest.raises(DataError, match="exists"):
        upgrade(source, target)
    with pytest.raises(DataError, match="in our format already"):
        upgrade(target, tmp_path / "again.lmdb")


def records(count=3):
    picture = cv2.imencode(".png", np.zeros((8, 10, 3), np.uint8))[1].tobytes()
    label = np.zeros((8, 10), np.uint8)
    label[2:5], label[6:] = 1, 2
    return [{"image": picture, "segment": cv2.imencode(".png", label)[1].ravel()} for _ in range(count)]


def test_a_sample_that_differs_is_noticed(tmp_path, monkeypatch):
    published(tmp_path / "a.lmdb", records())

    def wrong(source, name, options, index):
        record = upgrading._record(source, name, options, index)
        if index == 1:
            record["segment"] = record["segment"] * 0
        return upgrading.pack({**record, "source_id": "x"})

    monkeypatch.setattr(upgrading, "_sample", wrong)
    with pytest.raises(DataError, match="segment of sample 1 differs"):
        upgrade(tmp_path / "a.lmdb", tmp_path / "b.lmdb", labels="merged")
    assert [path.name for path in tmp_path.glob("*b.lmdb*")] == []
    monkeypatch.undo()
    upgrade(tmp_path / "a.lmdb", tmp_path / "b.lmdb", labels="merged")
    assert len(Reader(tmp_path / "b.lmdb", "voc")) == 3


@pytest.mark.parity
def test_a_wrong_encoder_of_frames_is_noticed(golden, tmp_path, monkeypatch):
    """The comparison decodes the source as training does, not through what encodes the target."""
    from object_centric_bench.datum import movi

    original = movi._png
    monkeypatch.setattr(movi, "_png", lambda picture: original(picture // 16 * 16))
    source = require(golden / "lmdb" / "movi" / "train.lmdb")
    with pytest.raises(DataError, match="video of sample 0 differs"):
        upgrade(source, tmp_path / "a.lmdb")
    assert not list(tmp_path.glob("*.lmdb"))


@pytest.mark.parity
def test_labels_are_for_voc_only(golden, tmp_path):
    with pytest.raises(DataError, match="--labels says what the label maps of published VOC files hold"):
        upgrade(require(golden / "lmdb" / "coco" / "val.lmdb"), tmp_path / "a.lmdb", labels="merged")


def test_label_maps_of_16_bits(tmp_path):
    """More than 255 segments in a published PNG are neither cut to 8 bits nor mixed up."""
    label = np.arange(400, dtype=np.uint16).reshape(20, 20)
    picture = cv2.imencode(".png", np.zeros((20, 20, 3), np.uint8))[1].tobytes()
    published(tmp_path / "a.lmdb", [{"image": picture, "segment": cv2.imencode(".png", label)[1].ravel()}])
    old = VOC("a.lmdb", ["segment"], labels="merged", data_dir=str(tmp_path)).sample(0, RNG)
    assert old["segment"].dtype == torch.int32 and old["segment"].max() == 399
    upgrade(tmp_path / "a.lmdb", tmp_path / "b.lmdb", labels="merged")
    assert torch.equal(VOC("b.lmdb", ["segment"], data_dir=str(tmp_path)).sample(0, RNG)["segment"], old["segment"])


def test_malformed_published_records(tmp_path):
    for change in ({"segment": 5}, {"clazz": 5}, {"image": 5}):
        record = {**records(1)[0], "clazz": np.zeros(2, np.uint8), "bbox": np.zeros((2, 4), np.float32), **change}
        published(tmp_path / "a.lmdb", [record])
        with pytest.raises(DataError, match=r"a\.lmdb, sample 0"):
            COCO("a.lmdb", ["image", "segment", "category"], data_dir=str(tmp_path)).sample(0, RNG)
        (tmp_path / "a.lmdb").unlink()


def test_label_scheme_is_needed(tmp_path):
    published(tmp_path / "a.lmdb", records())
    with pytest.raises(DataError, match=r"merged.*border0"):
        upgrade(tmp_path / "a.lmdb", tmp_path / "b.lmdb")
    upgrade(tmp_path / "a.lmdb", tmp_path / "b.lmdb", labels="border0")
    sample = VOC("b.lmdb", ["segment", "ignore"], data_dir=str(tmp_path)).sample(0, RNG)
    assert sample["segment"].unique().tolist() == [0, 1] and sample["ignore"].sum() == 10 * 3


def test_things_only_stays_things_only(tmp_path):
    rows = {"bbox": np.zeros((2, 4), np.float32), "clazz": np.array([1, 2], np.uint8)}
    published(tmp_path / "a.lmdb", [{**each, **rows} for each in records()])
    upgrade(tmp_path / "a.lmdb", tmp_path / "b.lmdb")
    assert COCO("b.lmdb", ["segment", "category"], data_dir=str(tmp_path)).sample(0, RNG)["category"].tolist() == [1, 2]
    with pytest.raises(DataError, match="things only"):
        COCO("b.lmdb", ["segment"], instance=False, data_dir=str(tmp_path))


def test_the_source_is_never_overwritten(tmp_path):
    published(tmp_path / "a.lmdb", records())
    before = (tmp_path / "a.lmdb").read_bytes()
    (tmp_path / "link.lmdb").symlink_to(tmp_path / "a.lmdb")
    for target in (tmp_path / "a.lmdb", tmp_path / "link.lmdb"):
        with pytest.raises(DataError, match="is the source itself"):
            upgrade(tmp_path / "a.lmdb", target, labels="merged", force=True)
    assert (tmp_path / "a.lmdb").read_bytes() == before


def test_unknown_records(tmp_path):
    published(tmp_path / "a.lmdb", [{"sound": b""}])
    with pytest.raises(DataError, match="records with sound are of no known dataset"):
        upgrade(tmp_path / "a.lmdb", tmp_path / "b.lmdb")
    with pytest.raises(DataError, match="no such file"):
        upgrade(tmp_path / "c.lmdb", tmp_path / "b.lmdb")
