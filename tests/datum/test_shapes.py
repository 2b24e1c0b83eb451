"""The drawn scenes: reproducible, and as described."""

import numpy as np
import pytest

from object_centric_bench.datum import shapes
from object_centric_bench.datum.record import DataError
from object_centric_bench.datum.shapes import Shapes, convert, render


def scenes(count, size=128):
    return [render(np.random.default_rng([0, 0, index]), size) for index in range(count)]


def test_scenes_are_as_described():
    counts = []
    for image, segment in scenes(100):
        assert image.shape == (128, 128, 3) and image.dtype == segment.dtype == np.uint8
        areas = np.bincount(segment.ravel())
        assert (areas[1:] > 60).all()  # ids without gaps, all well visible
        counts.append(len(areas) - 1)
        assert areas[0] > 0.3 * segment.size
    assert min(counts) == shapes.MIN_OBJECTS and max(counts) == shapes.MAX_OBJECTS
    assert np.bincount(counts)[2:].min() > 8


def test_objects_are_more_saturated_than_their_background():
    more = []
    for image, segment in scenes(60):
        saturation = np.ptp(image.astype(int), axis=2) / np.maximum(image.max(axis=2), 1)
        more.append(saturation[segment > 0].mean() - saturation[segment == 0].mean())
    assert np.mean(more) > 0.35 and np.min(more) > 0.1


@pytest.mark.parametrize("size", [32, 64, 200])
def test_any_size(size):
    image, segment = render(np.random.default_rng(0), size)
    assert image.shape == (size, size, 3) and segment.shape == (size, size) and segment.max() >= 2


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_distances_have_unit_slope_at_the_outline(shape):
    """Otherwise edges would be jagged or blurred."""
    axis = np.linspace(-1.4, 1.4, 561, dtype=np.float32)
    u, v = np.meshgrid(axis, axis)
    distance = shape(u, v)
    slope = np.hypot(*np.gradient(distance, axis, axis))
    near = np.abs(distance) < 0.02
    assert near.sum() > 500 and abs(np.median(slope[near]) - 1) < 0.05
    assert 0.8 < (distance < 0).sum() * (axis[1] - axis[0]) ** 2 < 3.2  # areas of a similar order
    assert (distance[0] > 0).all()


def test_same_bytes_for_any_number_of_workers(tmp_path):
    for workers in (0, 1, 2):
        convert(tmp_path / str(workers), num_train=20, num_val=9, workers=workers)
    for name in ("train.lmdb", "val.lmdb"):
        assert len({(tmp_path / str(workers) / name).read_bytes() for workers in (0, 1, 2)}) == 1
    train, val = (
        Shapes(f"{split}.lmdb", ["image", "segment"], data_dir=str(tmp_path / "0")) for split in shapes.SPLITS
    )
    assert len(train) == 20 and len(val) == 9 and val.source_id(3) == "val_000003"
    rng = np.random.default_rng(0)
    assert (train.sample(0, rng)["image"] != val.sample(0, rng)["image"]).any()
    image, segment = render(np.random.default_rng([0, 1, 3]), 128)
    sample = val.sample(3, rng)
    np.testing.assert_array_equal(sample["segment"], segment)
    assert np.abs(sample["image"].permute(1, 2, 0).numpy().astype(int) - image).mean() < 3  # JPEG


def test_the_seed_matters(tmp_path):
    convert(tmp_path / "0", 2, 1)
    convert(tmp_path / "1", 2, 1, seed=1)
    assert (tmp_path / "0" / "val.lmdb").read_bytes() != (tmp_path / "1" / "val.lmdb").read_bytes()


def test_both_targets_are_checked_before_any_is_written(tmp_path):
    convert(tmp_path, 1, 1)
    (tmp_path / "train.lmdb").unlink()
    with pytest.raises(DataError, match=r"val.lmdb exists"):
        convert(tmp_path, 1, 1, seed=1)
    assert not (tmp_path / "train.lmdb").exists()
    convert(tmp_path, 1, 1, seed=1, force=True)
