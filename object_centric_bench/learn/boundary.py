"""Region similarity J and boundary accuracy F of videos, as DAVIS 2017 scores unsupervised methods."""

import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .metric import iou

TOLERANCE = 0.008  # of the picture's diagonal: how far apart two boundaries may be
WORD = 62  # segments whose maps share one int64 per pixel
ENTRIES = 2**24  # pixels times segments that are unpacked at once: 64 MiB of float32


def region_and_boundary(
    prediction: Tensor, target: Tensor, table: Tensor, valid: Tensor | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Compute J, F and their mean, of the best one-to-one assignment of predicted segments to objects.

    J is the IoU per frame (1 where both are absent), F the harmonic mean of precision and recall of boundary pixels
    (Perazzi et al., CVPR 2016), both averaged over frames. Each object gets a predicted segment of its own for the
    whole video so that the sum of (J + F) / 2 is largest (Caelles et al., 2019); where there are fewer segments than
    objects, empty ones join in.

    Args:
        prediction: (b t h w) integer, below k.
        target: (b t h w) integer, below l, 0 = background.
        table: (b t k l) int64, their contingency tables per frame.
        valid: (b t h w) bool, pixels that count; None = all.

    Returns:
        `j`, `f`, `jf` -> (value (b) float64 in [0, 1], mean over objects; weight (b) float64, number of objects).
    """
    _, _, rows, columns = table.shape
    counted = None if valid is None else valid.flatten(0, 1)
    f = boundary_accuracy(prediction.flatten(0, 1), target.flatten(0, 1), counted, rows, columns)
    f = f.unflatten(0, table.shape[:2])  # b t k+1 l
    j = _regions(table)
    mean = torch.stack([j, f]).mean(dim=2)[..., 1:].cpu().numpy()  # 2 b k+1 objects
    present = (table.sum(dim=(1, 3)) > 0).cpu().numpy()
    objects = (table.sum(dim=(1, 2)) > 0)[:, 1:].cpu().numpy()
    best = np.array([_assigned(mean[:, each], present[each], objects[each]) for each in range(len(table))])
    values = torch.from_numpy(best.reshape(-1, 2)).to(table.device)
    weight = torch.from_numpy(objects.sum(axis=1)).double().to(table.device)
    return {"j": (values[:, 0], weight), "f": (values[:, 1], weight), "jf": (values.mean(dim=1), weight)}


def _assigned(scores: np.ndarray, present: np.ndarray, objects: np.ndarray) -> list[float]:
    """Return the mean J and F over the objects (l) bool of one video; `scores` is (2 k+1 l), its last row empty."""
    count = int(objects.sum())
    if not count:
        return [0.0, 0.0]
    segments = np.flatnonzero(present)
    segments = np.concatenate([segments, np.full(max(0, count - len(segments)), len(present))])
    scores = scores[:, segments][:, :, objects]
    chosen = linear_sum_assignment(scores.mean(axis=0), maximize=True)
    return [float(each[chosen].mean()) for each in scores]


def _regions(table: Tensor) -> Tensor:
    """Return the IoU per frame (b t k+1 l) float64, 1 where both segments are absent; the last row is an empty one."""
    frames = table.flatten(0, 1)
    frames = torch.cat([frames, frames.new_zeros(len(frames), 1, frames.shape[2])], dim=1)
    absent = (frames.sum(dim=2) == 0)[:, :, None] & (frames.sum(dim=1) == 0)[:, None]
    return torch.where(absent, 1.0, iou(frames)).unflatten(0, table.shape[:2])


def boundary_accuracy(prediction: Tensor, target: Tensor, valid: Tensor | None, rows: int, columns: int) -> Tensor:
    """Compute F of every predicted with every true segment.

    A boundary pixel differs from its right, lower or lower right neighbour. It is matched if one of the other
    segment's lies within ceil(0.008 diagonal) pixels. Pixels that do not count belong to no segment.

    Args:
        prediction: (n h w) integer, below `rows`.
        target: (n h w) integer, below `columns`.
        valid: (n h w) bool; None = all.
        rows, columns: numbers of segments.

    Returns:
        (n k+1 l) float64 in [0, 1]; the last row is of a predicted segment without boundary.
    """
    height, width = target.shape[-2:]
    radius = math.ceil(TOLERANCE * math.hypot(height, width))
    found = [boundaries(prediction, valid, first) for first in range(0, rows + 1, WORD)]
    true = [boundaries(target, valid, first) for first in range(0, columns, WORD)]
    near_found, near_true = ([dilate(each, radius) for each in words] for words in (found, true))
    hits, pixels = _hits(found, near_true, rows + 1, columns)  # n k+1 l; n k+1
    true_hits, true_pixels = _hits(true, near_found, columns, rows + 1)
    true_hits, pixels, true_pixels = true_hits.mT, pixels[:, :, None], true_pixels[:, None]
    # without boundary there is nothing wrong, but a boundary of the other side is not matched
    precision = torch.where(pixels > 0, hits / pixels.clamp(min=1), 1.0)
    recall = torch.where(true_pixels > 0, true_hits / true_pixels.clamp(min=1), 1.0)
    return 2 * precision * recall / (precision + recall).clamp(min=1e-12)


def boundaries(ids: Tensor, valid: Tensor | None, first: int = 0) -> Tensor:
    """Return boundary maps of 62 segments at once: bit i of (n h w) int64 is set on the boundary of id `first` + i."""
    bit = ids.long() - first
    bit = torch.where((bit >= 0) & (bit < WORD), torch.ones_like(bit) << bit.clamp(0, WORD - 1), 0)
    if valid is not None:
        bit = torch.where(valid, bit, 0)
    edge = torch.zeros_like(bit)
    edge[:, :, :-1] |= bit[:, :, :-1] ^ bit[:, :, 1:]
    edge[:, :-1] |= bit[:, :-1] ^ bit[:, 1:]
    edge[:, :-1, :-1] |= bit[:, :-1, :-1] ^ bit[:, 1:, 1:]
    return edge


def dilate(bits: Tensor, radius: int) -> Tensor:
    """Return maps (n h w) int64 whose bits are set within `radius` pixels, by Euclidean distance, of those given."""
    height, width = bits.shape[-2:]
    result = torch.zeros_like(bits)
    row = bits.clone()  # dilated along rows by `reach` so far
    reach = 0
    for down in range(min(radius, height - 1), -1, -1):
        half = math.isqrt(radius**2 - down**2)
        for shift in range(reach + 1, min(half, width - 1) + 1):
            row[:, :, shift:] |= bits[:, :, :-shift]
            row[:, :, :-shift] |= bits[:, :, shift:]
        reach = max(reach, half)
        result[:, down:] |= row[:, : height - down]
        result[:, : height - down] |= row[:, down:]
    return result


def _hits(edges: list[Tensor], near: list[Tensor], count: int, others: int) -> tuple[Tensor, Tensor]:
    """Count boundary pixels of each segment that are near a boundary of each other one.

    Args:
        edges: boundary maps (n h w), a word each.
        near: the others' dilated ones.
        count, others: numbers of segments.

    Returns:
        hits: (n count others) float64.
        pixels: (n count) float64, of each segment's boundary.
    """
    edges, near = ([word.flatten(1) for word in words] for words in (edges, near))
    on = torch.stack([word != 0 for word in edges]).any(dim=0)
    most = max(1, int(on.sum(dim=1).max()) if len(on) else 1)  # few of the pixels lie on a boundary
    size = max(1, ENTRIES // (most * (count + others)))
    hits, pixels = [], []
    for start in range(0, max(len(on), 1), size):
        part = slice(start, start + size)
        frame, pixel = on[part].nonzero(as_tuple=True)
        row = frame * most + (on[part].cumsum(dim=1)[frame, pixel] - 1)  # frames one after the other, filled up
        filled = []
        for words, number in ((edges, count), (near, others)):
            bits = _unpack([word[part][frame, pixel] for word in words], number)
            filled.append(
                bits.new_zeros(len(on[part]) * most, number).index_copy_(0, row, bits).unflatten(0, (-1, most))
            )
        hits.append(filled[0].mT @ filled[1])  # sums below 2**24: exact
        pixels.append(filled[0].sum(dim=1))
    return torch.cat(hits).double(), torch.cat(pixels).double()


def _unpack(words: list[Tensor], count: int) -> Tensor:
    """Return the first `count` bits of the numbers (m) in some words as (m count) float32, 0 or 1."""
    bits = torch.arange(min(count, WORD), device=words[0].device)
    return torch.cat([(word[:, None] >> bits & 1).float() for word in words], dim=1)[:, :count]
