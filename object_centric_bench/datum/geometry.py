"""What crops, flips and sizes do to boxes, optical flow, label maps and the order of pixels in memory."""

import cv2
import numpy as np
import torch
from torch import Tensor

THINNEST = 1e-5  # of the window; what rounding leaves of a box that touches it from outside is thinner


def crop_box(box: Tensor, frame: tuple[int, int], window: tuple[int, int, int, int], value: float = 0.0) -> Tensor:
    """Return boxes relative to a window, (... n 4), cut at its borders.

    Args:
        box: (... n 4) float, left, top, right, bottom in 0..1 of the frame.
        frame: height, width, pixels.
        window: top, left, height, width, pixels.
        value: all four numbers of boxes without area.
    """
    top, left, height, width = window
    scale = box.new_tensor([frame[1], frame[0], frame[1], frame[0]])
    origin = box.new_tensor([left, top, left, top])
    box = ((box * scale - origin) / box.new_tensor([width, height, width, height])).clip(0, 1)
    area = (box[..., 2:] - box[..., :2] > THINNEST).all(dim=-1, keepdim=True)
    return torch.where(area, box, torch.full_like(box, value))


def flip_box(box: Tensor, axis: str) -> Tensor:
    """Return boxes in the mirrored picture, (... n 4); those of four equal numbers as they are.

    Args:
        box: (... n 4) float, left, top, right, bottom in 0..1.
        axis: horizontal or vertical.
    """
    left, top, right, bottom = box.unbind(-1)
    if axis == "horizontal":
        left, right = 1 - right, 1 - left
    else:
        top, bottom = 1 - bottom, 1 - top
    nothing = (box == box[..., :1]).all(dim=-1, keepdim=True)
    return torch.where(nothing, box, torch.stack([left, top, right, bottom], dim=-1))


def scale_flow(flow: Tensor, rows: float, columns: float) -> Tensor:
    """Return optical flow with its components multiplied.

    Args:
        flow: (... 2 h w) float, row and column components, pixels.
        rows: factor of the row component.
        columns: factor of the column component.

    Raises:
        ValueError: another shape or type.
    """
    if flow.ndim < 3 or flow.shape[-3] != 2 or not flow.is_floating_point():
        raise ValueError(f"optical flow must be (... 2 h w) of floats, got {tuple(flow.shape)} of {flow.dtype}")
    return flow * flow.new_tensor([rows, columns])[:, None, None]


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


def separate(pictures: Tensor) -> Tensor:
    """Return (n c h w) in the order of its axes, as `contiguous` does, but uint8 in a quarter of its time.

    Args:
        pictures: (n c h w); several channels of uint8 are fastest if those of a pixel are neighbours.
    """
    if pictures.dtype != torch.uint8 or pictures.is_contiguous():
        return pictures.contiguous()
    separated = np.empty(pictures.shape, np.uint8)
    for picture, planes in zip(pictures.permute(0, 2, 3, 1).numpy(), separated, strict=True):
        cv2.split(picture, list(planes))  # writes there
    return torch.from_numpy(separated)
