"""Transforms of pictures: properties, boxes, flow, label maps, messages. Reference numbers: test_transform_parity."""

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from object_centric_bench.datum.geometry import crop_box, nearest_exact, separate
from object_centric_bench.datum.transform import FLOWS, CenterCrop, Normalize, RandomCrop, RandomFlip, Resize
from object_centric_bench.registry import CLASSES

# torchvision before 0.29 takes a detour over floats on some processors, and rounds to the next level in places
LEVELS = 0 if tuple(map(int, torchvision.__version__.split(".")[:2])) >= (0, 29) else 1


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32))
def test_random_crop_stays_inside_and_keeps_its_bounds(height, width, seed):
    top, left, h, w = RandomCrop(["image"]).window(height, width, np.random.default_rng(seed))
    assert 0 <= top <= height - h and 0 <= left <= width - w and h > 0 and w > 0
    if min(height, width) > 30:
        assert 0.70 <= h * w / min(height, width) ** 2 <= 4 / 3 + 0.05
        assert 0.72 <= w / h <= 1.38


def test_random_crop_has_the_distribution_of_the_reference():
    """On squares: one draw fits with probability 0.476 and ten all fail with 0.0016 (analytic); areas are uniform."""
    rng = np.random.default_rng(0)
    crop = RandomCrop(["image"])
    windows = np.array([crop.window(1000, 1500, rng) for _ in range(4000)])
    area, aspect = windows[:, 2] * windows[:, 3] / 1000**2, np.log(windows[:, 3] / windows[:, 2])
    assert abs(area.mean() - 0.875) < 0.02 and area.min() >= 0.749 and area.max() <= 1.001
    assert aspect.min() >= np.log(0.749) and aspect.max() <= np.log(1.335)
    assert windows[:, 0].min() == 0 and windows[:, 1].max() > 500


def test_random_crop_falls_back_to_the_centre():
    crop = RandomCrop(["image"], scale=[4.0, 4.0])  # larger than any frame
    assert crop.window(100, 300, np.random.default_rng(0)) == (0, 83, 100, 133)
    assert crop.window(300, 100, np.random.default_rng(0)) == (83, 0, 133, 100)
    assert crop.window(100, 100, np.random.default_rng(0)) == (0, 0, 100, 100)


def test_one_window_and_one_flip_for_all_keys():
    position = torch.arange(40 * 60).reshape(40, 60)
    sample = {"image": position.expand(3, 40, 60), "segment": position}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        out = RandomFlip(["image", "segment"])(RandomCrop(["image", "segment"])(sample, rng), rng)
        assert (out["image"] == out["segment"]).all()


def test_random_flip_flips_with_its_probability_and_mirrors_boxes():
    sample = {"image": torch.arange(6).reshape(1, 2, 3), "box": torch.tensor([[0.1, 0.2, 0.5, 0.9], [0, 0, 0, 0]])}
    rng = np.random.default_rng(0)
    flips = sum(bool(RandomFlip(["image"], 0.3)(sample, rng)["image"][0, 0, 0] == 2) for _ in range(2000))
    assert abs(flips / 2000 - 0.3) < 0.04
    box = RandomFlip(["image"], 1.0)(sample, rng)["box"]
    torch.testing.assert_close(box, torch.tensor([[0.5, 0.2, 0.9, 0.9], [0, 0, 0, 0]]))
    assert RandomFlip(["image"], 0.0)(sample, rng) is sample


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 200))
def test_nearest_exact_is_that_of_pytorch(source, target):
    result, expected = both_nearest_exact(source, target)
    on_border = (2 * np.arange(target) + 1) * source % (2 * target) == 0  # there its rounding decides
    assert (result == expected)[~on_border].all()


@pytest.mark.parametrize("target", [128, 224, 256, 384])
def test_nearest_exact_is_that_of_pytorch_on_borders_too(target):
    for source in range(60, 641, 2):
        result, expected = both_nearest_exact(source, target)
        assert (result == expected).all(), source


def both_nearest_exact(source, target):
    line = torch.arange(source, dtype=torch.float32)[None, None]
    expected = torch.nn.functional.interpolate(line, size=target, mode="nearest-exact")
    return nearest_exact(line, (1, target)).numpy()[0, 0], expected.numpy()[0, 0]


# -------------------------------------------------------------------------------------------------------------- boxes


def test_boxes_follow_a_crop():
    sample = {"image": torch.zeros(3, 40, 60), "box": torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.1, 0.5]])}
    out = CenterCrop(["image"])(sample)
    torch.testing.assert_close(out["box"], torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]))
    out = CenterCrop(["image"], value=-1)(sample)
    torch.testing.assert_close(out["box"], torch.tensor([[0.0, 0.0, 1.0, 1.0], [-1.0, -1.0, -1.0, -1.0]]))
    out = RandomCrop(["image"], scale=[4.0, 4.0], ratio=[0.1, 0.1], value=-1)(sample, np.random.default_rng(0))
    assert (out["box"][1] == -1).all()  # the fallback, 4 columns in the middle


def test_rounding_leaves_nothing_of_a_box_that_touches_the_window_from_outside():
    box = torch.tensor([[0.0, 0.0, 9 / 35, 1.0]])  # its right side is 9.000001 pixels in float32
    assert box[0, 2] * 35 > 9
    assert (crop_box(box, (35, 35), (0, 9, 35, 26)) == 0).all()


def test_boxes_of_nothing_are_not_flipped():
    box = torch.tensor([[0.0, 0.0, 0.0, 0.0], [-1.0, -1.0, -1.0, -1.0], [0.0, 0.25, 0.5, 1.0]])
    for axis, expected in (("horizontal", [0.5, 0.25, 1.0, 1.0]), ("vertical", [0.0, 0.0, 0.5, 0.75])):
        out = RandomFlip(["image"], 1.0, axis)({"image": torch.zeros(3, 4, 4), "box": box}, np.random.default_rng(0))
        assert out["box"].tolist() == [*box[:2].tolist(), expected]


def box_of(mask):
    """Left, top, right, bottom in 0..1 of a (h w) bool mask, right and bottom exclusive; zeros if it is empty."""
    height, width = mask.shape
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    if not len(rows):
        return torch.zeros(4)
    sides = [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]
    return torch.cat(sides).float()


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_boxes_agree_with_transformed_masks(data):
    """Of rectangles, after crop, flips and a whole-number resize; of videos and of images; 0 stays background."""
    height, width = data.draw(st.integers(6, 40)), data.draw(st.integers(6, 40))
    frames, seed = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 2**32))
    masks = torch.zeros(frames, 3, height, width, dtype=torch.bool)
    for t in range(frames):
        for n in range(data.draw(st.integers(0, 3))):
            top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
            bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
            masks[t, n, top:bottom, left:right] = True
    sample = {
        "video": masks.byte(),
        "ignore": masks,
        "box": torch.stack([torch.stack([*map(box_of, m)]) for m in masks]),
    }
    rng, keys = np.random.default_rng(seed), ["video", "ignore"]
    for transform in (RandomCrop(keys, scale=[0.1, 1.0]), RandomFlip(keys), RandomFlip(keys, axis="vertical")):
        sample = transform(sample, rng)
    size = [2 * n for n in sample["ignore"].shape[-2:]]
    sample = Resize(["ignore"], size, "nearest-exact")(sample)
    for boxes, moved in zip(sample["box"], sample["ignore"], strict=True):
        torch.testing.assert_close(boxes, torch.stack([*map(box_of, moved)]), rtol=0, atol=1e-5)
        assert ((boxes == 0).all(-1) == ~moved.flatten(1).any(-1)).all()
    assert sample["ignore"].dtype == torch.bool and (sample["video"].bool() == sample["ignore"][..., ::2, ::2]).all()


# -------------------------------------------------------------------------------------------------- flow, depth, labels


def pointing(height, width, seed):
    """Return where each pixel of a picture points to, (h w 2) row and column, and that as flow (1 2 h w)."""
    rng = np.random.default_rng(seed)
    target = torch.from_numpy(np.stack([rng.integers(0, n, (height, width)) for n in (height, width)], -1))
    return target, (target - grid(height, width)).permute(2, 0, 1)[None].float()


def grid(height, width):
    return torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), dim=-1)


@settings(deadline=None, max_examples=50)
@given(st.integers(4, 30), st.integers(4, 30), st.integers(0, 2**32), st.sampled_from(FLOWS))
def test_flow_still_points_to_the_same_things_after_crop_and_flips(height, width, seed, key):
    target, flow = pointing(height, width, seed)
    sample = {key: flow, "row": target[..., 0], "column": target[..., 1]}
    keys, rng = list(sample), np.random.default_rng(seed)
    top, left, h, w = RandomCrop(keys).window(height, width, np.random.default_rng(seed))
    sample = RandomCrop(keys)(sample, rng)
    targets = torch.stack([sample["row"] - top, sample["column"] - left], dim=-1)
    for axis, side, size in (("vertical", 0, h), ("horizontal", 1, w)):
        flipped = rng.integers(2)
        sample = RandomFlip(keys, float(flipped), axis)(sample, rng)
        if flipped:
            targets = targets.flip(side)
            targets[..., side] = size - 1 - targets[..., side]
    assert (sample[key][0].permute(1, 2, 0) + grid(h, w) == targets).all()


@pytest.mark.parametrize("mode", Resize.modes)
def test_flow_is_measured_in_pixels_of_the_new_size(mode):
    flow = torch.tensor([3.0, -4.0])[:, None, None].expand(5, 2, 20, 30)
    out = Resize(list(FLOWS), [40, 10], mode)(dict.fromkeys(FLOWS, flow))
    for key in FLOWS:
        assert out[key].shape == (5, 2, 40, 10) and out[key].dtype == torch.float32
        torch.testing.assert_close(out[key][:, 0], torch.full((5, 40, 10), 6.0))
        torch.testing.assert_close(out[key][:, 1], torch.full((5, 40, 10), -4 / 3))


@pytest.mark.parametrize("flow", [torch.zeros(2, 8, 8, dtype=torch.int32), torch.zeros(4, 3, 8, 8)])
def test_what_is_no_flow_is_refused(flow):
    for transform in (Resize(["forward_flow"], 4, "nearest-exact"), RandomFlip(["forward_flow"], 1.0)):
        with pytest.raises(ValueError, match="optical flow must be"):
            transform({"forward_flow": flow}, np.random.default_rng(0))


def test_depth_is_an_ordinary_picture():
    video = torch.arange(2 * 6 * 8, dtype=torch.float32).reshape(2, 1, 6, 8)
    picture = video[0, 0].byte()
    for depth in (video, picture):
        out = Resize(["depth"], 3)(CenterCrop(["depth"])({"depth": depth}))["depth"]
        assert out.shape == (*depth.shape[:-2], 3, 3) and out.dtype == depth.dtype
        expected = Resize(["image"], 3)({"image": depth.reshape(-1, 1, 6, 8)[..., 1:7]})["image"]
        assert (out.flatten() == expected.flatten()).all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32])
def test_label_maps_of_all_types(dtype):
    keys = ["segment", "semantic", "ignore"]
    label = (torch.arange(5 * 7).reshape(5, 7) % 2).to(dtype)
    sample = dict.fromkeys(keys, label)
    sample = RandomFlip(keys, 1.0)(CenterCrop(keys, [4, 6])(sample), np.random.default_rng(0))
    out = Resize(keys, [8, 12], "nearest-exact")(sample)
    for key in keys:
        assert out[key].dtype == dtype
        assert (out[key] == label[:4, :6].flip(-1).repeat_interleave(2, 0).repeat_interleave(2, 1)).all()


@pytest.mark.parametrize("shape", [(3, 40, 50), (1, 40, 50), (4, 40, 50), (2, 3, 40, 50), (2, 2, 3, 40, 50)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("is_decoded", [True, False], ids=["channels last", "channels first"])
def test_pictures_are_resized_as_torch_and_torchvision_do(shape, mode, is_decoded):
    """Whatever their order in memory: the order that is fast must not change a bit."""
    picture = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    if is_decoded:
        picture = picture.movedim(-3, -1).contiguous().movedim(-1, -3)
    picture = picture[..., 3:38, 5:46]
    resized = Resize(["image"], [16, 24], mode)({"image": picture})["image"]
    flat = picture.reshape(-1, *picture.shape[-3:]).contiguous()
    expected = interpolate(flat, [16, 24], mode=mode, antialias=True).reshape(resized.shape)
    assert torch.equal(resized, expected) and resized.is_contiguous() and resized.dtype == torch.uint8
    theirs = tv.resize(picture, [16, 24], InterpolationMode(mode), antialias=True)
    assert (resized.int() - theirs.int()).abs().max() <= LEVELS


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_separating_changes_the_order_in_memory_only(dtype):
    pictures = torch.arange(2 * 3 * 4 * 5).reshape(2, 4, 5, 3).permute(0, 3, 1, 2).to(dtype)
    separated = separate(pictures)
    assert torch.equal(separated, pictures) and separated.is_contiguous() and not pictures.is_contiguous()


def test_crops_are_views():
    image = torch.zeros(3, 40, 60)
    out = CenterCrop(["image"])({"image": image})["image"]
    assert out.untyped_storage().data_ptr() == image.untyped_storage().data_ptr()


def test_normalize_takes_batches_and_numbers_per_channel():
    batch = {"image": torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 4, 4), "index": 1}
    out = Normalize(["image"], [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])(batch)
    expected = torch.tensor([[-2.1179, -2.0357, -1.8044], [2.2489, 2.4286, 2.6400]])
    torch.testing.assert_close(out["image"][:, :, 0, 0], expected, rtol=0, atol=1e-4)
    assert out["index"] == 1 and batch["image"].dtype == torch.uint8


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: RandomCrop(["image"], scale=[1.0, 0.5]), "scale"),
        (lambda: RandomFlip(["image"], 1.5), "between 0 and 1"),
        (lambda: Normalize(["image"], [1.0], [0.0]), "std"),
        (lambda: Normalize(["image"], None, None), "std"),
        (lambda: Normalize(["image"], [1.0, 2.0], [1.0, 2.0])({"image": torch.zeros(1, 3, 8, 8)}), "for 2 channels"),
        (lambda: Normalize(["depth"], [1.0], [1.0])({"depth": torch.zeros(8, 8)}), "for 1 channels"),
        (lambda: RandomFlip(["image"], axis="up"), "horizontal, vertical"),
        (lambda: Resize(["segment"], 8), "would mix the ids of .'segment'."),
        (lambda: Resize(["image"], [8, 8, 8]), "side of a square"),
        (lambda: CenterCrop(["image"], 0), "side of a square"),
        (lambda: CenterCrop(["box"])({"box": torch.zeros(1, 4)}), "at least one"),
        (lambda: Resize(["image"], 8, mode="nearest"), "nearest-exact"),
        (lambda: Resize(["image"], 8, max_size=9), "keep_aspect"),
        (lambda: CenterCrop(["image"], 9)({"image": torch.zeros(3, 8, 8)}), "9x9 from a picture of 8x8"),
        (lambda: CenterCrop(["image", "segment"])({"image": torch.zeros(3, 8, 8)}), "segment"),
        (
            lambda: CenterCrop(["image", "segment"])({"image": torch.zeros(3, 8, 8), "segment": torch.zeros(8, 9)}),
            "one size",
        ),
    ],
)
def test_wrong_arguments_are_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_all_are_registered_and_tell_whether_they_draw():
    drawing = {"RandomCrop": True, "RandomFlip": True, "CenterCrop": False, "Resize": False, "Normalize": False}
    assert {name: CLASSES[name].is_random for name in drawing} == drawing
