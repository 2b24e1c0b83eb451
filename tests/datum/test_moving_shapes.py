"""The drawn videos: reproducible, and as described."""

import numpy as np
import pytest
import torch

from object_centric_bench import config, job
from object_centric_bench.datum import moving_shapes, shapes
from object_centric_bench.datum.clip import FixedClip, RandomClip
from object_centric_bench.datum.moving_shapes import MovingShapes, convert, position, render
from object_centric_bench.datum.record import DataError

from ..conftest import REPOSITORY


def videos(count, size=64, frames=6):
    return [render(np.random.default_rng([0, 0, index]), size, frames) for index in range(count)]


def test_videos_are_as_described():
    counts, moved = [], []
    for video, segment in videos(40):
        assert video.shape == (6, 64, 64, 3) and segment.shape == (6, 64, 64)
        assert video.dtype == segment.dtype == np.uint8
        ids = np.unique(segment)
        counts.append(len(ids) - 1)
        assert ids[0] == 0
        for label in ids[1:]:
            first, last = (np.argwhere(frame == label) for frame in segment[[0, 5]])
            if len(first) > 20 and len(last) > 20:
                moved.append(np.hypot(*(last.mean(axis=0) - first.mean(axis=0))))
    assert min(counts) == moving_shapes.MIN_OBJECTS and max(counts) == moving_shapes.MAX_OBJECTS
    assert np.median(moved) > 2  # pixels, in five steps


def test_the_background_stands_still_and_objects_keep_their_colour():
    for video, segment in videos(10):
        still = (segment == 0).all(axis=0)
        inner = still & (np.abs(video[1:].astype(int) - video[:-1]).max(axis=(0, 3)) == 0)
        assert inner.sum() > 0.9 * still.sum()  # soft edges of objects reach a pixel beyond them
        for label in np.unique(segment)[1:]:
            colours = [frame[there == label].mean(axis=0) for frame, there in zip(video, segment, strict=True)]
            sizes = [(there == label).sum() for there in segment]
            if min(sizes) > 0.95 * max(sizes):  # not hidden by others or the border
                assert np.ptp(colours, axis=0).max() < 12


def test_objects_stay_inside_and_move_evenly():
    mover = moving_shapes.Mover(0, 10.0, 0.0, 0.0, np.array([20.0, 50.0]), np.array([7.0, -11.0]), 0)
    places = np.array([position(mover, frame, 64) for frame in range(50)])
    assert places.min() >= 7 - 1e-9 and places.max() <= 57 + 1e-9
    np.testing.assert_allclose(places[0], mover.start)
    steps = np.abs(np.diff(places, axis=0))
    assert (steps <= np.abs(mover.velocity) + 1e-9).all()
    assert (np.isclose(steps, np.abs(mover.velocity)).mean(axis=0) > 0.7).all()  # but where it bounces


def test_same_bytes_for_any_number_of_workers(tmp_path):
    for workers in (0, 2):
        convert(tmp_path / str(workers), num_train=5, num_val=2, size=32, frames=3, workers=workers)
    for name in ("train.lmdb", "val.lmdb"):
        assert len({(tmp_path / str(workers) / name).read_bytes() for workers in (0, 2)}) == 1
    with pytest.raises(DataError, match="exists"):
        convert(tmp_path / "0")


def test_the_dataset_gives_what_was_drawn(tmp_path):
    convert(tmp_path, num_train=2, num_val=1, size=32, frames=5, seed=3)
    dataset = MovingShapes("train.lmdb", ["video", "segment"], data_dir=str(tmp_path))
    assert len(dataset) == 2 and dataset.source_id(1) == "train_000001"
    sample = dataset.sample(1, np.random.default_rng(0))
    video, segment = render(np.random.default_rng([3, 0, 1]), 32, 5)
    assert torch.equal(sample["segment"], torch.from_numpy(segment))
    assert sample["video"].shape == (5, 3, 32, 32) and sample["video"].dtype == torch.uint8
    difference = sample["video"].permute(0, 2, 3, 1).float() - torch.from_numpy(video).float()
    assert difference.abs().mean() < 4  # JPEG
    with pytest.raises(DataError, match="offers no key 'box'"):
        MovingShapes("train.lmdb", ["video", "box"], data_dir=str(tmp_path))


def test_clips_take_the_same_frames_of_video_and_segment(tmp_path):
    convert(tmp_path, num_train=1, num_val=1, size=32, frames=6)
    whole = MovingShapes("train.lmdb", ["video", "segment"], data_dir=str(tmp_path)).sample(0, None)
    for clip, frames in ((FixedClip(1, 4), slice(1, 4)), (RandomClip(2, aligned=True), None)):
        dataset = MovingShapes("train.lmdb", ["video", "segment"], clip=clip, data_dir=str(tmp_path))
        sample = dataset.sample(0, np.random.default_rng(0))
        if frames is None:
            frames = next(slice(i, i + 2) for i in (0, 2, 4) if torch.equal(whole["video"][i], sample["video"][0]))
        for key in ("video", "segment"):
            assert torch.equal(sample[key], whole[key][frames])


def test_splits_differ(tmp_path):
    convert(tmp_path, num_train=1, num_val=1, size=32, frames=2)
    train, val = (
        MovingShapes(f"{split}.lmdb", ["video"], data_dir=str(tmp_path)).sample(0, None) for split in shapes.SPLITS
    )
    assert not torch.equal(train["video"], val["video"])


def test_demo_videos_are_drawn_where_the_config_reads_them(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(moving_shapes, "convert", lambda folder, **options: made.append(folder))
    monkeypatch.setattr(shapes, "convert", lambda folder, **options: made.append(folder))
    for file in ("demo/videosaur-shapes", "demo/dinosaur-shapes", "videosaur/videosaur_r-movi_c"):
        job.make_shapes(tmp_path, config.load(REPOSITORY / f"config-{file}.py"))
    assert made == [tmp_path / "moving_shapes", tmp_path / "shapes"]
