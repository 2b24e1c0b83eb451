"""Which frames a clip chooses."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from object_centric_bench.datum.clip import FixedClip, RandomClip, SideClip
from object_centric_bench.registry import CLASSES, ConfigError, build


def starts(clip, length, draws=2000):
    rng = np.random.default_rng(0)
    return Counter(clip(length, rng).start for _ in range(draws))


def test_aligned_clips_of_six_of_twenty_four_frames():
    found = starts(RandomClip(6, aligned=True), 24)
    assert sorted(found) == [0, 6, 12, 18] and min(found.values()) > 400


def test_any_clip_of_six_of_twenty_four_frames():
    found = starts(RandomClip(6), 24, 5000)
    assert sorted(found) == list(range(19)) and min(found.values()) > 200


@pytest.mark.parametrize(
    "length, step, expected",
    [(26, 1, [0, 6, 12, 18, 20]), (7, 1, [0, 1]), (6, 1, [0]), (26, 2, [0, 12, 15]), (24, 2, [0, 12, 13])],
)
def test_a_remainder_is_reached_by_the_last_start(length, step, expected):
    assert sorted(starts(RandomClip(6, step, aligned=True), length)) == expected


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 5), st.booleans(), st.integers(0, 2**32))
def test_random_clips_lie_inside_and_have_their_size(length, size, step, aligned, seed):
    clip = RandomClip(size, step, aligned)
    frames = list(clip(length, np.random.default_rng(seed)))
    assert frames == list(clip(length, np.random.default_rng(seed)))
    assert frames and frames[0] >= 0 and frames[-1] < length and set(np.diff(frames)) <= {step}
    if length >= (size - 1) * step + 1:
        assert len(frames) == size
    else:
        assert frames == list(range(0, length, step))  # too short: all there are


@given(st.integers(1, 30), st.integers(-30, 30), st.none() | st.integers(-30, 30), st.integers(1, 4))
def test_fixed_clips_are_python_slices(length, start, stop, step):
    expected = list(range(length))[start:stop:step]
    clip = FixedClip(start, stop, step)
    if expected:
        assert list(clip(length)) == expected
    else:
        with pytest.raises(ValueError, match=f"a video of {length} frames has none from"):
            clip(length)


@pytest.mark.parametrize("side, expected", [("left", [0, 1]), ("center", [1, 2]), ("right", [3, 4])])
def test_side_clips(side, expected):
    assert list(SideClip(2, side)(5)) == expected
    assert list(SideClip(7, side)(5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: RandomClip(0), "at least 1"),
        (lambda: RandomClip(6, 0), "at least 1"),
        (lambda: FixedClip(step=0), "at least 1"),
        (lambda: SideClip(0), "at least 1"),
        (lambda: SideClip(1, "top"), "left, center, right"),
    ],
)
def test_wrong_arguments_are_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_all_are_registered_and_tell_whether_they_draw():
    drawing = {"RandomClip": True, "FixedClip": False, "SideClip": False}
    assert {name: CLASSES[name].is_random for name in drawing} == drawing


def test_a_config_gives_a_clip_to_a_transform():
    node = dict(type="Slice", keys=["video"], axis=0, clip=dict(type="RandomClip", size=6, aligned=True))
    assert build(node, "transforms.0").is_random
    node["clip"]["sise"] = 3
    with pytest.raises(ConfigError, match=r"transforms.0.clip.sise: RandomClip takes no .sise."):
        build(node, "transforms.0")
