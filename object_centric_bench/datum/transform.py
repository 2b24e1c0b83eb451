"""Transforms of samples: `transform(sample, rng) -> sample`; every draw comes from the `rng` handed in.

They act on the last two axes, so pictures (c h w), label maps (h w) and stacks of both (t ...) are treated alike. Boxes
follow: if the sample has `box` (... n 4), float32 left, top, right, bottom in 0..1 of the picture, crops and flips move
it. A box that is all zero marks "nothing there" and stays so. `is_random` tells whether a class draws.

Crop before resizing: a crop only makes a view.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from ..registry import register
from .dataset import Sample

ATTEMPTS = 10  # crops drawn before the fallback


def crop(sample: Sample, keys: list[str], top: int, left: int, height: int, width: int) -> Sample:
    """Return the sample with a window of the named pictures (as views) and its boxes relative to the window."""
    frame = frame_size(sample, keys)
    pictures = {key: sample[key][..., top : top + height, left : left + width] for key in keys if key != "box"}
    if "box" in sample:
        pictures["box"] = crop_box(sample["box"], frame, (top, left, height, width))
    return {**sample, **pictures}


def crop_box(box: Tensor, frame: tuple[int, int], window: tuple[int, int, int, int]) -> Tensor:
    """Return boxes relative to a window, cut at its borders; those without area become zero.

    Args:
        box: (... n 4) float, left, top, right, bottom in 0..1 of the frame.
        frame: height, width, pixels.
        window: top, left, height, width, pixels.
    """
    top, left, height, width = window
    scale = box.new_tensor([frame[1], frame[0], frame[1], frame[0]])
    origin = box.new_tensor([left, top, left, top])
    box = ((box * scale - origin) / box.new_tensor([width, height, width, height])).clip(0, 1)
    area = (box[..., 2:] > box[..., :2]).all(dim=-1, keepdim=True)
    return torch.where(area, box, torch.zeros_like(box))


def frame_size(sample: Sample, keys: list[str]) -> tuple[int, int]:
    """Return the height and width that the named pictures have in common.

    Raises:
        ValueError: they differ, or the sample lacks one.
    """
    missing = [key for key in keys if key not in sample]
    if missing:
        raise ValueError(f"a transform wants {missing}, the sample has {sorted(sample)}; add it to the dataset's keys")
    sizes = {key: tuple(sample[key].shape[-2:]) for key in keys if key != "box"}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"pictures cropped together must have one size, these have {sizes}")
    return next(iter(sizes.values()))


@register
class RandomCrop:
    """Cut out a random window, the same for all keys, without resizing it.

    Its area is a fraction, uniform in `scale`, of the largest square's area; the logarithm of its aspect (width over
    height) is uniform in that of `ratio`. After 10 windows that do not fit, the largest centred one with an allowed
    aspect is taken.

    Args:
        keys: pictures and label maps; boxes follow by themselves.
        scale: least and greatest fraction.
        ratio: least and greatest aspect.

    Raises:
        ValueError: not two rising positive numbers.
    """

    is_random = True

    def __init__(self, keys: list[str], scale: list[float] = (0.75, 1.0), ratio: list[float] = (3 / 4, 4 / 3)):
        for name, bounds in (("scale", scale), ("ratio", ratio)):
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
                raise ValueError(f"{name} must be two rising positive numbers, got {bounds}")
        self.keys, self.scale, self.ratio = keys, scale, ratio

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the sample, cropped."""
        frame = frame_size(sample, self.keys)
        return crop(sample, self.keys, *self.window(*frame, rng))

    def window(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw top, left, height and width of the window, pixels."""
        for _ in range(ATTEMPTS):
            area = rng.uniform(*self.scale) * min(height, width) ** 2
            aspect = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        aspect = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
        return (height - h) // 2, (width - w) // 2, h, w


@register
class CenterCrop:
    """Cut out the window in the middle.

    Args:
        keys: pictures and label maps; boxes follow by themselves.
        size: side of a square, or height and width, pixels; None means the largest square.

    Raises:
        ValueError: when called, if the window is larger than the picture.
    """

    is_random = False

    def __init__(self, keys: list[str], size: int | list[int] | None = None):
        self.keys = keys
        self.size = [size, size] if isinstance(size, int) else size

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Return the sample, cropped."""
        frame = frame_size(sample, self.keys)
        height, width = self.size or (min(frame), min(frame))
        if height > frame[0] or width > frame[1]:
            raise ValueError(f"CenterCrop of {height}x{width} from a picture of {frame[0]}x{frame[1]}")
        return crop(sample, self.keys, (frame[0] - height) // 2, (frame[1] - width) // 2, height, width)


@register
class Resize:
    """Scale pictures (antialiased; uint8 stays uint8) or label maps (`nearest-exact`). Boxes, being relative, stay.

    Args:
        keys: pictures or label maps.
        size: side of the square that results, or height and width, pixels.
        mode: bilinear, bicubic, or nearest-exact for label maps.
        keep_aspect: with an int `size`, make the short side that long and keep the aspect.
        max_size: with `keep_aspect`, bound of the long side, pixels.

    Raises:
        ValueError: an unknown mode, or `keep_aspect` with two numbers.
    """

    is_random = False
    modes = ("bilinear", "bicubic", "nearest-exact")

    def __init__(
        self,
        keys: list[str],
        size: int | list[int],
        mode: str = "bilinear",
        keep_aspect: bool = False,
        max_size: int | None = None,
    ):
        if mode not in self.modes:
            raise ValueError(f"mode {mode!r} is none of {', '.join(self.modes)}")
        if keep_aspect and not isinstance(size, int):
            raise ValueError(f"keep_aspect wants one number as size, got {size}")
        if max_size is not None and not keep_aspect:
            raise ValueError("max_size has a meaning only with keep_aspect=True")
        self.keys, self.size, self.mode, self.keep_aspect, self.max_size = keys, size, mode, keep_aspect, max_size

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Return the sample, resized."""
        resized = {}
        for key in self.keys:
            picture = sample[key]
            size = self.target(*picture.shape[-2:])
            if self.mode == "nearest-exact":
                resized[key] = nearest_exact(picture, size)
            else:
                resized[key] = tv.resize(picture, list(size), InterpolationMode(self.mode), antialias=True)
        return {**sample, **resized}

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that a picture gets."""
        if not self.keep_aspect:
            return (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)
        short, long = self.size, int(self.size * max(height, width) / min(height, width))
        if self.max_size is not None and long > self.max_size:
            short, long = int(self.max_size * short / long), self.max_size
        return (short, long) if height <= width else (long, short)


def nearest_exact(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (... h w), each target pixel taking the source pixel that its centre falls into.

    Args:
        picture: (... h w), any type.
        size: height and width wanted, pixels.
    """
    array = picture.numpy()  # whose indexing is six times as fast as torch's for small integers
    for axis, target in ((-2, size[0]), (-1, size[1])):
        source = array.shape[axis]
        if source != target:
            # in float32 like PyTorch's nearest-exact, which decides where a centre falls on a border
            scale = np.float32(source) / np.float32(target)
            index = ((np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale).astype(np.int64)
            array = array.take(np.minimum(index, source - 1), axis)
    return torch.from_numpy(array)


@register
class RandomFlip:
    """Mirror left and right, all keys together.

    Args:
        keys: pictures and label maps; boxes follow by themselves.
        p: probability.

    Raises:
        ValueError: p is no probability.
    """

    is_random = True

    def __init__(self, keys: list[str], p: float = 0.5):
        if not 0 <= p <= 1:
            raise ValueError(f"p must be between 0 and 1, got {p}")
        self.keys, self.p = keys, p

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the sample, flipped or not."""
        if rng.uniform() >= self.p:
            return sample
        flipped = {key: sample[key].flip(-1) for key in self.keys if key != "box"}
        if "box" in sample:
            left, top, right, bottom = sample["box"].unbind(-1)
            box = torch.stack([1 - right, top, 1 - left, bottom], dim=-1)
            null = (sample["box"] == 0).all(dim=-1, keepdim=True)
            flipped["box"] = torch.where(null, sample["box"], box)
        return {**sample, **flipped}


@register
class Normalize:
    """Turn [0, 255] into standard scores; meant for batches on their device, see `batch_transforms`.

    Args:
        keys: pictures (... c h w), uint8 or float.
        mean: per channel, on the scale 0..255.
        std: per channel, same scale.

    Raises:
        ValueError: lengths differ or a std is not positive.
    """

    is_random = False

    def __init__(self, keys: list[str], mean: list[float], std: list[float]):
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise ValueError(f"mean and std need one number per channel, std positive; got {mean} and {std}")
        self.keys, self.mean, self.std = keys, mean, std
        self.constants: dict[torch.device, tuple[Tensor, Tensor]] = {}  # copying them each step would stall the device

    def __call__(self, batch: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Return the batch with float32 pictures."""
        return {**batch, **{key: self.normalize(batch[key]) for key in self.keys}}

    def normalize(self, picture: Tensor) -> Tensor:
        """Return (picture - mean) / std, (... c h w) float32."""
        device = picture.device
        if device not in self.constants:
            self.constants[device] = tuple(
                torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
                for values in (self.mean, self.std)
            )
        mean, std = self.constants[device]
        return (picture - mean).div_(std)

    def invert(self, picture: Tensor) -> Tensor:
        """Return what was normalised, rounded and cut to [0, 255]: (b c h w) uint8."""
        mean, std = (torch.tensor(values, device=picture.device)[:, None, None] for values in (self.mean, self.std))
        return (picture * std + mean).round().clip(0, 255).to(torch.uint8)
