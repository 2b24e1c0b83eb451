"""Scores by name, for `learn.protocol`: functions of the evidence of one pair of maps."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from . import metric
from .boundary import region_and_boundary
from .contingency import count_pairs
from .information import adjusted_mutual_information

Scored = tuple[Tensor, Tensor]  # value (n) float64, and whether it is valid (n) bool or its weight (n) float64

LOCALIZED = 0.5  # IoU of boxes from which on an object counts as found


@dataclass
class Evidence:
    """What scores are computed from: a batch of predicted and true maps, and their contingency tables.

    Attributes:
        prediction: (b t h w) integer, below `rows`; images are videos of one frame.
        target: (b t h w) integer, below `columns`, 0 = background.
        rows, columns: of the tables.
        valid: (b t h w) bool, pixels that count; None = all.
        claimed: (b t h w) bool, pixels of `valid` that belong to a true segment; None = all that are valid.
        framewise: some score wants a table per frame; then that of the video is their sum.
    """

    prediction: Tensor
    target: Tensor
    rows: int
    columns: int
    valid: Tensor | None = None
    claimed: Tensor | None = None
    framewise: bool = False

    def table(self, unit: str) -> Tensor:
        """Return the contingency tables (n k l) int64 of claimed pixels; n are the videos, or all of their frames."""
        if unit == "frame":
            return self._frames.flatten(0, 1)
        return self._videos

    def areas(self, unit: str) -> Tensor | None:
        """Return the sizes (n k) of the predicted segments, None where they are the sums of the table's rows."""
        if self.claimed is None:
            return None
        return self._areas.flatten(0, 1) if unit == "frame" else self._areas.sum(dim=1)

    @property
    def counted(self) -> Tensor | None:
        """Pixels that tables count, (b t h w) bool; None = all."""
        return self.valid if self.claimed is None else self.claimed

    @cached_property
    def _frames(self) -> Tensor:
        return self._count(self.target, self.columns, self.counted, 2)

    @cached_property
    def _videos(self) -> Tensor:
        if self.framewise:
            return self._frames.sum(dim=1)
        return self._count(self.target, self.columns, self.counted, 1)[:, 0]

    @cached_property
    def _areas(self) -> Tensor:
        return self._count(torch.zeros_like(self.target), 1, self.valid, 2)[..., 0]

    @cached_property
    def boundaries(self) -> dict[str, Scored]:
        """Return `j`, `f` and `jf` of videos."""
        return region_and_boundary(self.prediction, self.target, self._frames, self.counted)

    def _count(self, target: Tensor, columns: int, valid: Tensor | None, axes: int) -> Tensor:
        """Return tables (b t k l), or with one axis (b 1 k l) of whole videos."""
        batch = self.target.shape[0]
        samples = batch * self.target.shape[1] if axes == 2 else batch
        counted = None if valid is None else valid.reshape(samples, -1)
        prediction, target = self.prediction.reshape(samples, -1), target.reshape(samples, -1)
        table = count_pairs(prediction, target, self.rows, columns, counted)
        return table.unflatten(0, (batch, -1))


def legacy_int64_rand_index(table: Tensor, skip_background: bool = False) -> Scored:
    """Compute ARI as published code of VVO and its siblings does: the product of two pair counts wraps in int64.

    Right below some 55 000 pixels; beyond, the expected agreement is noise, and the value drifts up to the
    un-adjusted one. Only to compare with published tables. Args and returns as `metric.adjusted_rand_index`.
    """
    table = table[:, :, int(skip_background) :]
    pixels = table.sum(dim=(1, 2))
    pairs = metric.pairs_among(table).sum(dim=(1, 2))
    true = metric.pairs_among(table.sum(dim=1)).sum(dim=1)
    predicted = metric.pairs_among(table.sum(dim=2)).sum(dim=1)
    expected = (true * predicted) / metric.pairs_among(pixels).clamp(min=1)  # int64 wraps; the quotient is float32
    largest = (true + predicted) / 2
    trivial = largest == expected
    value = torch.where(trivial, 1.0, (pairs - expected) / torch.where(trivial, 1.0, largest - expected))
    return torch.where(pixels > 0, value, 0.0).double(), pixels > 0


def correct_localization(evidence: Evidence) -> Scored:
    """Tell of each frame whether a box around a predicted segment has IoU 0.5 or more with one around an object.

    CorLoc of Deselaers et al., IJCV 2012, for sets of proposals; boxes are the tightest ones.

    Returns:
        value: (n) float64, 0 or 1, over all frames.
        valid: (n) bool, frames with an object.
    """
    found, there = _boxes(evidence.prediction, evidence.rows, evidence.valid)
    true, exists = _boxes(evidence.target, evidence.columns, evidence.counted)
    true, exists = true[:, 1:], exists[:, 1:]
    low = torch.maximum(found[:, :, None, :2], true[:, None, :, :2])
    high = torch.minimum(found[:, :, None, 2:], true[:, None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    area, true_area = ((box[..., 2:] - box[..., :2]).prod(dim=-1) for box in (found, true))
    overlap = shared.double() / (area[:, :, None] + true_area[:, None] - shared).clamp(min=1)
    hit = (overlap >= LOCALIZED) & there[:, :, None] & exists[:, None]
    return hit.flatten(1).any(dim=1).double(), exists.any(dim=1)


def _boxes(ids: Tensor, count: int, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the tightest boxes (n k 4) int64, top, left, bottom, right, and which ids occur (n k) bool."""
    ids = ids.flatten(0, 1)
    valid = None if valid is None else valid.flatten(0, 1).flatten(1)
    edges = []
    for axis in (1, 2):  # an id's rows and columns are those of a table of ids and coordinates that are not empty
        length = ids.shape[axis]
        position = torch.arange(length, device=ids.device)
        place = (position[:, None] if axis == 1 else position).expand(ids.shape)
        seen = count_pairs(ids.flatten(1), place.flatten(1), count, length, valid) > 0  # n k length
        edges.append((seen.byte().argmax(dim=2), length - seen.flip(2).byte().argmax(dim=2), seen.any(dim=2)))
    (top, bottom, there), (left, right, _) = edges
    return torch.stack([top, left, bottom, right], dim=-1), there


@dataclass(frozen=True)
class Score:
    """How a score is computed.

    Attributes:
        title: as papers write it.
        function: (evidence, unit, integers) -> value and validity, one per unit.
        foreground: the background is left out.
    """

    title: str
    function: Callable[[Evidence, str, str], Scored]
    foreground: bool = False


def _rand(foreground: bool) -> Callable[[Evidence, str, str], Scored]:
    functions = {"exact": metric.adjusted_rand_index, "legacy_int64": legacy_int64_rand_index}
    return lambda evidence, unit, integers: functions[integers](evidence.table(unit), foreground)


def _information(foreground: bool) -> Callable[[Evidence, str, str], Scored]:
    return lambda evidence, unit, integers: adjusted_mutual_information(evidence.table(unit), foreground)


def _overlap(function: Callable, foreground: bool) -> Callable[[Evidence, str, str], Scored]:
    return lambda evidence, unit, integers: function(evidence.table(unit), foreground, evidence.areas(unit))


def _video(name: str) -> Callable[[Evidence, str, str], Scored]:
    return lambda evidence, unit, integers: evidence.boundaries[name]


SCORES: dict[str, Score] = {
    "ari": Score("ARI", _rand(False)),
    "ari_fg": Score("ARI_fg", _rand(True), True),
    "ami": Score("AMI", _information(False)),
    "ami_fg": Score("AMI_fg", _information(True), True),
    "mbo": Score("mBO", _overlap(metric.mean_best_overlap, False)),
    "mbo_fg": Score("mBO_fg", _overlap(metric.mean_best_overlap, True), True),
    "mbo_i": Score("mBO_i", _overlap(metric.mean_best_overlap, True), True),
    "mbo_c": Score("mBO_c", _overlap(metric.mean_best_overlap, True), True),
    "miou": Score("mIoU", _overlap(metric.mean_iou, False)),
    "miou_fg": Score("mIoU_fg", _overlap(metric.mean_iou, True), True),
    "corloc": Score("CorLoc", lambda evidence, unit, integers: correct_localization(evidence), True),
    "j": Score("J", _video("j"), True),
    "f": Score("F", _video("f"), True),
    "jf": Score("J&F", _video("jf"), True),
}
TITLES = {name: score.title for name, score in SCORES.items()}
CLASS_SCORES = ("mbo_c",)  # of the map of classes, all others of the map of objects
BY_FRAME = ("corloc",)  # are of single frames under every protocol
VIDEO_SCORES = ("j", "f", "jf")  # are of videos, each object weighing the same
