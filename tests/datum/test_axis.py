"""Parts of an axis and padding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from object_centric_bench.datum.axis import PadTo, Slice, pad_to_longest
from object_centric_bench.datum.clip import FixedClip, RandomClip, SideClip
from object_centric_bench.datum.transform import CenterCrop, RandomCrop, RandomFlip, Resize
from object_centric_bench.registry import CLASSES

PICTURES = ["video", "segment", "forward_flow"]


def video(length, seed=0):
    rng = np.random.default_rng(seed)
    box = rng.uniform(0, 1, (length, 3, 2, 2)).astype(np.float32)
    return {
        "video": torch.from_numpy(rng.integers(0, 256, (length, 3, 9, 12), dtype=np.uint8)),
        "segment": torch.from_numpy(rng.integers(0, 4, (length, 9, 12), dtype=np.uint8)),
        "forward_flow": torch.from_numpy(rng.standard_normal((length, 2, 9, 12)).astype(np.float32)),
        "box": torch.from_numpy(np.sort(box, axis=2).reshape(length, 3, 4)),
        "source_id": "a",
    }


CLIPS = st.one_of(
    st.builds(RandomClip, st.integers(1, 6), st.integers(1, 3), st.booleans()),
    st.builds(FixedClip, st.integers(-3, 0), st.none(), st.integers(1, 3)),
    st.builds(SideClip, st.integers(1, 6), st.sampled_from(SideClip.sides)),
)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), CLIPS, st.integers(0, 2**32))
def test_slicing_a_video_first_is_slicing_it_after_the_fact(length, clip, seed):
    def transformed(sample):
        rng = np.random.default_rng([seed, 1])
        for transform in (
            RandomCrop(PICTURES),
            Resize(["video", "forward_flow"], 6),
            Resize(["segment"], 6, "nearest-exact"),
            RandomFlip(PICTURES),
        ):
            sample = transform(sample, rng)
        return sample

    sample = video(length, seed)
    keys = [*PICTURES, "box"]
    first = transformed(Slice(keys, 0, clip)(sample, np.random.default_rng(seed)))
    frames = list(clip(length, np.random.default_rng(seed)))
    for key, entry in transformed(sample).items():
        if key in keys:
            assert torch.equal(first[key], entry[frames]), key
        else:
            assert first[key] == entry


def test_slices_of_any_axis_are_views():
    sample = {"box": torch.arange(24).reshape(2, 3, 4)}
    for axis in (2, -1):
        out = Slice(["box"], axis, FixedClip(1, None, 2))(sample)["box"]
        assert torch.equal(out, sample["box"][:, :, 1::2])
        assert out.untyped_storage().data_ptr() == sample["box"].untyped_storage().data_ptr()


@given(st.integers(0, 5), st.integers(0, 8), st.sampled_from(["right", "left", "sides"]))
def test_padding_keeps_what_is_there(there, size, side):
    box = torch.rand(2, there, 4)
    if there > size:
        with pytest.raises(ValueError, match=f"'box' has {there} along axis 1, PadTo wants at most {size}"):
            PadTo(["box"], 1, size, -1, side)({"box": box})
    out = PadTo(["box"], 1, size, -1, side, truncate=True)({"box": box})["box"]
    missing = max(size - there, 0)
    before = {"right": 0, "left": missing, "sides": missing // 2}[side]
    assert out.shape == (2, size, 4)
    assert torch.equal(out[:, before : before + min(there, size)], box[:, :size])
    assert (out == -1).sum() == 2 * missing * 4


def test_padded_boxes_stay_nothing():
    sample = PadTo(["box"], 1, 5)({"video": torch.zeros(2, 3, 8, 8), "box": torch.ones(2, 3, 4) * 0.1})
    rng = np.random.default_rng(0)
    for transform in (RandomFlip(["video"], 1.0), CenterCrop(["video"], 6), RandomFlip(["video"], 1.0, "vertical")):
        sample = transform(sample, rng)
    assert (sample["box"] == 0).all()  # boxes of one point are lost by the crop, the padding was nothing before


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_stacks_are_padded_to_the_longest(lengths):
    entries = [torch.rand(2, length, 4) for length in lengths]
    stack = pad_to_longest(entries, 1)
    assert stack.shape == (len(lengths), 2, max(lengths), 4)
    for row, entry in zip(stack, entries, strict=True):
        assert torch.equal(row[:, : entry.shape[1]], entry) and (row[:, entry.shape[1] :] == 0).all()


@pytest.mark.parametrize("shapes", [[(2, 3), (3, 4)], [(2,), (2, 3)], [(), (2, 3)]])
def test_stacks_of_what_differs_otherwise_are_refused(shapes):
    with pytest.raises(ValueError, match="differ in more than axis 1"):
        pad_to_longest([torch.zeros(shape) for shape in shapes], 1)


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: PadTo(["box"], 0, -1), "at least 0"),
        (lambda: PadTo(["box"], 0, 1, side="top"), "right, left, sides"),
        (lambda: PadTo(["box"], 0, 1)({"video": 1}), "wants .'box'., the sample has .'video'."),
        (lambda: PadTo(["box"], 2, 1)({"box": torch.zeros(1, 4)}), "2 axes .1, 4., none numbered 2"),
        (lambda: Slice(["box"], -3, SideClip(1))({"box": torch.zeros(1, 4)}), "none numbered -3"),
        (lambda: Slice(["a"], 0, SideClip(1))({"box": torch.zeros(1, 4)}), "wants .'a'."),
        (lambda: Slice(["a", "b"], 0, SideClip(1))({"a": torch.zeros(1), "b": torch.zeros(2)}), "equally long"),
        (lambda: Slice(["a"], 0, 3), "clip"),
    ],
)
def test_wrong_arguments_are_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_both_are_registered_and_tell_whether_they_draw():
    assert CLASSES["PadTo"] is PadTo and CLASSES["Slice"] is Slice
    assert (
        not PadTo.is_random and Slice(["a"], 0, RandomClip(1)).is_random and not Slice(["a"], 0, SideClip(1)).is_random
    )
