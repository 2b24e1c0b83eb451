"""Transforms of pictures: `transform(sample, rng) -> sample`; every draw comes from the `rng` handed in.

They act on the last two axes, so pictures (c h w), label maps and depth (h w) and stacks of all (t ...) are treated
alike. `is_random` tells whether a class draws. Transforms of other axes are in `axis`.

Boxes follow: if the sample has `box` (... n 4), float32 left, top, right, bottom in 0..1 of the picture, crops and
flips move it. A box of four equal numbers, such as all zero, marks "nothing there"; a flip leaves it as it is.

Optical flow, `forward_flow` and `backward_flow` (... 2 h w) float32, is in pixels, the first component along rows:
flips also negate the component that they mirror, `Resize` scales the components with the picture.

Crop before resizing: a crop only makes a view.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from ..registry import register
from .dataset import Sample
from .geometry import crop_box, flip_box, nearest_exact, scale_flow, separate

ATTEMPTS = 10  # crops drawn before the fallback
FLOWS = ("forward_flow", "backward_flow")
LABELS = ("segment", "semantic", "ignore")  # whose values must not be mixed


def crop(sample: Sample, keys: list[str], window: tuple[int, int, int, int], value: float = 0.0) -> Sample:
    """Return the sample with a window of the named pictures (as views) and its boxes relative to the window.

    Args:
        sample: not changed.
        keys: pictures and label maps of one size.
        window: top, left, height, width, pixels.
        value: of boxes that the window does not show.

    Raises:
        ValueError: the pictures differ in size, or the sample lacks one.
    """
    top, left, height, width = window
    frame = frame_size(sample, keys)
    pictures = {key: sample[key][..., top : top + height, left : left + width] for key in keys if key != "box"}
    if "box" in sample:
        pictures["box"] = crop_box(sample["box"], frame, window, value)
    return {**sample, **pictures}


def frame_size(sample: Sample, keys: list[str]) -> tuple[int, int]:
    """Return the height and width that the named pictures have in common.

    Raises:
        ValueError: they differ, or the sample lacks one.
    """
    missing = [key for key in keys if key not in sample]
    if missing:
        raise ValueError(f"a transform wants {missing}, the sample has {sorted(sample)}; add it to the dataset's keys")
    sizes = {key: tuple(sample[key].shape[-2:]) for key in keys if key != "box"}
    if not sizes:
        raise ValueError(f"a transform of pictures wants at least one among its keys, got {keys}")
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
        value: all four numbers of boxes that the window does not show.

    Raises:
        ValueError: not two rising positive numbers.
    """

    is_random = True

    def __init__(
        self,
        keys: list[str],
        scale: tuple[float, float] = (0.75, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        value: float = 0.0,
    ):
        for name, bounds in (("scale", scale), ("ratio", ratio)):
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
                raise ValueError(f"{name} must be two rising positive numbers, got {bounds}")
        self.keys, self.scale, self.ratio, self.value = keys, scale, ratio, value

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the sample, cropped."""
        frame = frame_size(sample, self.keys)
        return crop(sample, self.keys, self.window(*frame, rng), self.value)

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
        value: all four numbers of boxes that the window does not show.

    Raises:
        ValueError: a size that is none; when called, if the window is larger than the picture.
    """

    is_random = False

    def __init__(self, keys: list[str], size: int | list[int] | None = None, value: float = 0.0):
        self.keys, self.size, self.value = keys, pair(size), value

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Return the sample, cropped."""
        frame = frame_size(sample, self.keys)
        height, width = self.size or (min(frame), min(frame))
        if height > frame[0] or width > frame[1]:
            raise ValueError(f"CenterCrop of {height}x{width} from a picture of {frame[0]}x{frame[1]}")
        window = (frame[0] - height) // 2, (frame[1] - width) // 2, height, width
        return crop(sample, self.keys, window, self.value)


def pair(size: int | list[int] | None) -> list[int] | None:
    """Return height and width of a size that may be given as the side of a square.

    Raises:
        ValueError: not one or two positive numbers, or None.
    """
    sides = [size, size] if isinstance(size, int) else size
    if sides is not None and (len(sides) != 2 or min(sides) < 1):
        raise ValueError(f"size must be the side of a square, or height and width, in pixels; got {size}")
    return sides


@register
class Resize:
    """Scale pictures (antialiased; uint8 stays uint8) or label maps (`nearest-exact`). Boxes, being relative, stay.

    Optical flow is measured in pixels of the new size afterwards.

    Args:
        keys: pictures or label maps.
        size: side of the square that results, or height and width, pixels.
        mode: bilinear, bicubic, or nearest-exact for label maps.
        keep_aspect: with an int `size`, make the short side that long and keep the aspect.
        max_size: with `keep_aspect`, bound of the long side, pixels.

    Raises:
        ValueError: an unknown mode, `keep_aspect` with two numbers, a size that is none, or label maps that a mode
            other than nearest-exact would mix.
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
        labels = [key for key in keys if key in LABELS]
        if labels and mode != "nearest-exact":
            raise ValueError(f"{mode} would mix the ids of {labels}; resize label maps with mode nearest-exact")
        pair(size)
        self.keys, self.size, self.mode, self.keep_aspect, self.max_size = keys, size, mode, keep_aspect, max_size

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Return the sample, resized."""
        resized = {}
        for key in self.keys:
            picture = sample[key]
            height, width = picture.shape[-2:]
            size = self.target(height, width)
            if self.mode == "nearest-exact":
                resized[key] = nearest_exact(picture, size)
            elif picture.ndim == 2:  # torchvision wants channels
                resized[key] = self.interpolate(picture[None], size)[0]
            else:
                resized[key] = self.interpolate(picture, size)
            if key in FLOWS:
                resized[key] = scale_flow(resized[key], size[0] / height, size[1] / width)
        return {**sample, **resized}

    def interpolate(self, picture: Tensor, size: tuple[int, int]) -> Tensor:
        """Return (... c h w), antialiased."""
        if picture.dtype != torch.uint8:
            return tv.resize(picture, list(size), InterpolationMode(self.mode), antialias=True)
        # the same kernel as torchvision's, a third faster where the channels of a pixel are neighbours
        frames = picture.reshape(-1, *picture.shape[-3:]).contiguous(memory_format=torch.channels_last)
        frames = interpolate(frames, size, mode=self.mode, antialias=True)
        return separate(frames).reshape(*picture.shape[:-2], *size)

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that a picture gets."""
        if not isinstance(self.size, int):
            return self.size[0], self.size[1]
        if not self.keep_aspect:
            return self.size, self.size
        short, long = self.size, int(self.size * max(height, width) / min(height, width))
        if self.max_size is not None and long > self.max_size:
            short, long = int(self.max_size * short / long), self.max_size
        return (short, long) if height <= width else (long, short)


@register
class RandomFlip:
    """Mirror all keys together: left and right, or top and bottom.

    Args:
        keys: pictures and label maps; boxes follow by themselves.
        p: probability.
        axis: horizontal swaps left and right, vertical top and bottom.

    Raises:
        ValueError: p is no probability, or another axis.
    """

    is_random = True
    axes = ("horizontal", "vertical")

    def __init__(self, keys: list[str], p: float = 0.5, axis: str = "horizontal"):
        if not 0 <= p <= 1:
            raise ValueError(f"p must be between 0 and 1, got {p}")
        if axis not in self.axes:
            raise ValueError(f"axis {axis!r} is none of {', '.join(self.axes)}")
        self.keys, self.p, self.axis = keys, p, axis

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the sample, flipped or not."""
        if rng.uniform() >= self.p:
            return sample
        flipped = {key: self.flip(key, sample[key]) for key in self.keys if key != "box"}
        if "box" in sample:
            flipped["box"] = flip_box(sample["box"], self.axis)
        return {**sample, **flipped}

    def flip(self, key: str, picture: Tensor) -> Tensor:
        """Return (... h w) mirrored; of optical flow the mirrored component is negated too."""
        horizontal = self.axis == "horizontal"
        if key in FLOWS:
            picture = scale_flow(picture, 1 if horizontal else -1, -1 if horizontal else 1)
        return picture.flip(-1 if horizontal else -2)


@register
class Normalize:
    """Turn [0, 255] into standard scores; meant for batches on their device, see `batch_transforms`.

    Args:
        keys: pictures (... c h w), uint8 or float.
        mean: per channel, on the scale 0..255.
        std: per channel, same scale.

    Raises:
        ValueError: lengths differ or a std is not positive; when called, if a picture has another number of channels.
    """

    is_random = False

    def __init__(self, keys: list[str], mean: list[float], std: list[float]):
        if not mean or not std or len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"mean and std need one number per channel, std positive; got {mean} and {std}")
        self.keys, self.mean, self.std = keys, mean, std
        self.constants: dict[torch.device, tuple[Tensor, Tensor]] = {}  # copying them each step would stall the device

    def __call__(self, batch: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Return the batch with float32 pictures."""
        return {**batch, **{key: self.normalize(batch[key]) for key in self.keys}}

    def normalize(self, picture: Tensor) -> Tensor:
        """Return (picture - mean) / std, (... c h w) float32."""
        device = picture.device
        if picture.ndim < 3 or picture.shape[-3] != len(self.mean):
            raise ValueError(f"Normalize has numbers for {len(self.mean)} channels, got (... c h w) {[*picture.shape]}")
        if device not in self.constants:
            mean, std = (
                torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
                for values in (self.mean, self.std)
            )
            self.constants[device] = mean, std
        mean, std = self.constants[device]
        return (picture - mean).div_(std)

    def invert(self, picture: Tensor) -> Tensor:
        """Return what was normalised, rounded and cut to [0, 255]: (b c h w) uint8."""
        mean, std = (torch.tensor(values, device=picture.device)[:, None, None] for values in (self.mean, self.std))
        return (picture * std + mean).round().clip(0, 255).to(torch.uint8)
