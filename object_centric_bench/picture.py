"""Pictures for people: segments in colours, and grids of input, ground truth, prediction and one column per slot."""

import colorsys
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .files import replacing

GAP = 2  # pixels of white between two pictures


def palette(count: int) -> np.ndarray:
    """Return `count` well separated RGB colours (count 3) uint8; the first, for the background, is dark grey."""
    golden = 0.618033988749895  # successive hues this far apart never fall close together
    hues = [(0.08 + golden * k) % 1.0 for k in range(max(count - 1, 0))]
    colours = [colorsys.hsv_to_rgb(hue, 0.85 - 0.25 * (k % 2), 1.0 - 0.2 * (k % 3)) for k, hue in enumerate(hues)]
    return (np.array([(0.25, 0.25, 0.25), *colours])[:count] * 255).astype(np.uint8)


def draw_segments(image: np.ndarray, segment: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Return the image (h w 3) uint8 with the index map (h w) painted over it."""
    colours = palette(int(segment.max()) + 1)[segment]
    return (image * (1 - opacity) + colours * opacity).astype(np.uint8)


def rows(image: Tensor, target: Tensor | None, segment: Tensor | None, mask: Tensor | None) -> list[list[np.ndarray]]:
    """Return one row of pictures per image, all (h w 3) uint8.

    Args:
        image: (b 3 h w) uint8 RGB.
        target: (b h w) integer ground-truth index map, or None.
        segment: (b h w) integer predicted index map, or None.
        mask: (b s h' w') float in 0..1, one map per slot, or None; shown as the share of the image each slot holds.
    """
    pictures = image.permute(0, 2, 3, 1).cpu().numpy()
    columns = [list(pictures)]
    for index_map in (target, segment):
        if index_map is not None:
            maps = index_map.long().cpu().numpy()
            columns.append([draw_segments(*pair) for pair in zip(pictures, maps, strict=True)])
    if mask is not None:
        soft = F.interpolate(mask.float(), size=image.shape[-2:], mode="bilinear", align_corners=False)
        weights = soft.clamp(0, 1).cpu().numpy()[..., None]  # b s h w 1
        for slot in range(weights.shape[1]):
            columns.append(
                [(p * w + 255 * (1 - w)).astype(np.uint8) for p, w in zip(pictures, weights[:, slot], strict=True)]
            )
    return [list(row) for row in zip(*columns, strict=True)]


def save_grid(file: Path, grid: list[list[np.ndarray]]) -> None:
    """Write rows of equally large pictures (h w 3) uint8 as one PNG, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    height, width = grid[0][0].shape[:2]
    canvas = np.full(
        (len(grid) * (height + GAP) - GAP, max(map(len, grid)) * (width + GAP) - GAP, 3), 255, dtype=np.uint8
    )
    for r, row in enumerate(grid):
        for c, picture in enumerate(row):
            canvas[r * (height + GAP) :, c * (width + GAP) :][:height, :width] = picture
    with replacing(file) as temporary:
        Image.fromarray(canvas).save(temporary)
