"""MOVi: both generations of published files against the reference's numbers; clips, of all files."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from object_centric_bench.datum import movi, published_video
from object_centric_bench.datum.clip import FixedClip, RandomClip
from object_centric_bench.datum.flow import flow_picture
from object_centric_bench.datum.lmdb import Reader
from object_centric_bench.datum.movi import MOVi
from object_centric_bench.datum.record import DataError
from object_centric_bench.datum.upgrade import upgrade
from tests.conftest import require

from .examples import PUBLISHED, later, samples_equal
from .stores import published

RNG = np.random.default_rng(0)
ALL = list(MOVi.offered)


def compact(segment):
    return np.unique(segment, return_inverse=True)[1]


@pytest.mark.parity
@pytest.mark.parametrize("split", ["train", "validation"])
def test_published_files(golden, split):
    folder = require(golden / "lmdb/movi")
    expected = np.load(folder / "expected.npz")
    dataset = MOVi(f"{split}.lmdb", PUBLISHED, data_dir=str(folder))
    assert len(dataset) == sum(key.startswith(f"{split}.") and key.endswith(".video") for key in expected.files) > 1
    for index in range(len(dataset)):
        sample, there = dataset.sample(index, RNG), f"{split}.{index}"
        np.testing.assert_array_equal(sample["video"], expected[f"{there}.video"])
        np.testing.assert_array_equal(compact(sample["segment"]), compact(expected[f"{there}.segment"]))
        np.testing.assert_array_equal(sample["box"], expected[f"{there}.bbox"])
        np.testing.assert_array_equal(sample["depth"], expected[f"{there}.depth"])
        picture = flow_picture(sample["backward_flow"], legacy=True)
        np.testing.assert_array_equal(picture, expected[f"{there}.flow"])
        assert not torch.equal(flow_picture(sample["backward_flow"]), picture)
        assert dataset.source_id(index) == f"{index:06d}"


def test_both_generations_and_upgraded_files_give_the_same(movi_stores, tmp_path):
    first, second = (MOVi("train.lmdb", PUBLISHED, data_dir=str(movi_stores[name])) for name in ("2025", "2026"))
    upgrade(movi_stores["2026"] / "train.lmdb", tmp_path / "train.lmdb")
    third = MOVi("train.lmdb", PUBLISHED, data_dir=str(tmp_path))
    assert not third.reader.published
    for index in range(len(first)):
        expected = first.sample(index, RNG)
        samples_equal(second.sample(index, RNG), expected, PUBLISHED)
        samples_equal(third.sample(index, RNG), expected, PUBLISHED)


def test_what_published_files_lack_is_said_at_once(movi_stores, golden):
    for name in ("2025", "2026"):
        with pytest.raises(DataError, match=r"without 'visibility', its records hold bbox, depth.*convert.py movi"):
            MOVi("train.lmdb", ["video", "visibility"], data_dir=str(movi_stores[name]))
    with pytest.raises(DataError, match="of another dataset, its records hold depth, image, segment"):
        MOVi("train.lmdb", ["video"], data_dir=str(require(golden / "lmdb/clevrtex")))


def test_without_the_video_library(movi_stores, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"train.lmdb, sample 0, 'video': .* PyAV reads: pip install av. Or make"):
        MOVi("train.lmdb", ["video"], data_dir=str(movi_stores["2025"]))
    MOVi("train.lmdb", ["box"], data_dir=str(movi_stores["2025"])).sample(0, RNG)
    MOVi("train.lmdb", ["video"], data_dir=str(movi_stores["2026"])).sample(0, RNG)


def test_the_video_library_is_not_loaded_with_the_package():
    program = "import sys; sys.modules['av'] = None; import object_centric_bench.datum"  # None: importing it fails
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def change(**entries):
    return lambda record: record.update(entries)


DAMAGED = {
    "AVI": (change(video=b"RIFF nothing"), "'video': the AVI file cannot be read"),
    "no AVI": (change(segment=7), "'segment': is neither an AVI file nor a list"),
    "no picture": (change(video=[np.zeros(0, np.uint8)] * 24), "'video': a frame is empty or no picture"),
    "text": (change(video=[np.arange(9, dtype=np.uint8)] * 24), "'video': a picture cannot be decoded"),
    "no range": (lambda record: record["depth"].pop("max"), "'depth': must have data, min and max"),
    "one component": (lambda record: record["flow"]["data"].pop(), "'flow' has no two components"),
    "boxes": (change(bbox=np.zeros((24, 4), np.float32)), r"'bbox' is no array \(t n 4\)"),
    "frames": (lambda record: record["segment"].pop(), "its entries have 24 and 23 frames"),
    "sizes": (
        lambda r: r["segment"].__setitem__(3, cv2.imencode(".png", np.zeros((4, 5), np.uint8))[1]),
        "differ in size",
    ),
    "bits": (lambda record: record["depth"].update(data=record["segment"]), "not the expected 16 bits"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_published_records(golden, tmp_path, case):
    good = later(Reader(require(golden / "lmdb/movi/train.lmdb")).read(0))
    bad = later(Reader(require(golden / "lmdb/movi/train.lmdb")).read(0))
    damage, text = DAMAGED[case]
    damage(bad)
    published(tmp_path / "a.lmdb", [good, bad])
    dataset = MOVi("a.lmdb", PUBLISHED, data_dir=str(tmp_path))
    dataset.sample(0, RNG)
    with pytest.raises(DataError, match=rf"a.lmdb, sample 1.*{text}"):
        dataset.sample(1, RNG)


def test_cut_videos(golden, tmp_path):
    """FFmpeg would make up the rest of a frame that is cut. The last 400 bytes are an index that nobody needs."""
    record = Reader(require(golden / "lmdb/movi/train.lmdb")).read(0)
    lengths = range(0, len(record["video"]) - 450, 499)
    published(tmp_path / "a.lmdb", [record] + [{**record, "video": record["video"][:length]} for length in lengths])
    for clip in (None, FixedClip(0, 1)):
        dataset = MOVi("a.lmdb", ["video"], clip=clip, data_dir=str(tmp_path))
        for index in range(1, len(dataset)):
            with pytest.raises(DataError, match=f"a.lmdb, sample {index}, 'video': the AVI file"):
                dataset.sample(index, RNG)


# ------------------------------------------------------------------------------------------------------------- clips


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_clips_equal_slices_of_whole_videos(movi_stores, data):
    name = data.draw(st.sampled_from(sorted(movi_stores)))
    offered = ALL if name == "ours" else PUBLISHED
    keys = data.draw(st.lists(st.sampled_from(offered), min_size=1, unique=True))
    start, size, step = data.draw(st.integers(0, 23)), data.draw(st.integers(1, 24)), data.draw(st.integers(1, 5))
    clip = data.draw(st.sampled_from([FixedClip(start, start + size, step), RandomClip(size, step)]))
    chosen = list(clip(24, np.random.default_rng(7)))
    whole = MOVi("train.lmdb", keys, data_dir=str(movi_stores[name])).sample(1, RNG)
    part = MOVi("train.lmdb", keys, clip=clip, data_dir=str(movi_stores[name])).sample(1, np.random.default_rng(7))
    for key in keys:
        expected = whole[key] if key == "category" else whole[key][chosen]
        assert torch.equal(part[key], expected) and part[key].is_contiguous()


def count(monkeypatch, module, name):
    calls, function = [], getattr(module, name)

    def counted(*arguments, **options):
        calls.append(name)
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, counted)
    return calls


def test_only_the_frames_of_the_clip_are_decoded(movi_stores, monkeypatch):
    clip = FixedClip(3, 15, 4)
    ours = MOVi("train.lmdb", ALL, clip=clip, data_dir=str(movi_stores["ours"]))
    calls = {name: count(monkeypatch, movi, name) for name in ("decode_image", "decode_label", "decode_flow")}
    ours.sample(0, RNG)
    assert {name: len(each) for name, each in calls.items()} == dict(decode_image=3, decode_label=3, decode_flow=6)

    for name, key, number in (("2025", "video", 3), ("2025", "backward_flow", 6), ("2026", "video", 3)):
        dataset = MOVi("train.lmdb", [key], clip=clip, data_dir=str(movi_stores[name]))
        with monkeypatch.context() as patch:
            shown = count(patch, published_video, "to_array")
            pictures = count(patch, published_video, "_picture")
            dataset.sample(0, RNG)
        assert len(shown) + len(pictures) == number


@pytest.mark.parametrize("key, clip, expected", [("video", (2, 5), (0, 5)), ("segment", (14, 17), (12, 17))])
def test_decoding_goes_from_a_key_frame_to_the_last_frame_of_the_clip(movi_stores, monkeypatch, key, clip, expected):
    """The segments have a second key frame in the middle, the pictures have only one, at the start."""
    dataset = MOVi("train.lmdb", [key], clip=FixedClip(*clip), data_dir=str(movi_stores["2025"]))
    numbers, frames = [], published_video._Video.frames

    def counted(video, start):
        for number, each in enumerate(frames(video, start), start):
            numbers.append(number)
            yield each

    monkeypatch.setattr(published_video._Video, "frames", counted)
    dataset.sample(0, RNG)
    assert numbers == list(range(*expected))


def test_frames_stored_in_another_order_are_decoded_from_the_start(movi_stores):
    record = Reader(movi_stores["2025"] / "train.lmdb").read(0)
    video = published_video._Video(record["segment"], "here")
    assert [video.key_frame(number) for number in (0, 11, 12, 23)] == [0, 0, 12, 12]
    video.packets[20], video.packets[21] = video.packets[21], video.packets[20]
    assert video.key_frame(23) == 0


def test_only_what_is_asked_for_is_read(movi_stores, monkeypatch):
    sample = MOVi("train.lmdb", ["box"], clip=FixedClip(0, 6), data_dir=str(movi_stores["ours"])).sample(0, RNG)
    assert sample.keys() == {"box", "index"} and len(sample["box"]) == 6
    decoded = [count(monkeypatch, published_video, name) for name in ("_Video", "_picture")]
    for name in ("2025", "2026"):
        dataset = MOVi("train.lmdb", ["box"], clip=FixedClip(0, 6), data_dir=str(movi_stores[name]))
        assert len(dataset.sample(0, RNG)["box"]) == 6
    assert decoded == [[], []]


def test_a_clip_without_frames(movi_stores):
    for name in movi_stores:
        dataset = MOVi("train.lmdb", ["video"], clip=lambda length, rng: range(0), data_dir=str(movi_stores[name]))
        with pytest.raises(DataError, match="sample 0: the clip takes none of its 24 frames"):
            dataset.sample(0, RNG)
