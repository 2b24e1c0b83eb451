"""Scores of segmentations: ARI, mBO and mIoU, all from one contingency table per image or clip."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from object_centric_bench.learn.contingency import compact, count_pairs, join, parts
from object_centric_bench.learn.path import fetch_tensor
from object_centric_bench.registry import register

SCORES = ("ari", "ari_fg", "mbo", "miou", "mbo_fg", "miou_fg")


def adjusted_rand_index(table: Tensor, skip_background: bool = False) -> tuple[Tensor, Tensor]:
    """Compare two clusterings by their agreement on pixel pairs, adjusted for chance.

    Hubert and Arabie, Journal of Classification 1985. With S(x) = sum x (x - 1), R = S(table), A and B = S of the
    column and row sums, n pixels: E = A B / (n (n - 1)), ARI = (R - E) / ((A + B) / 2 - E); 1 where both sides are a
    single cluster or both are all singletons. Counts are exact integers and products float64: in int64 A B overflows
    from about 55 000 pixels on.

    Args:
        table: (b k l) int64, from `contingency`.
        skip_background: drop column 0 first, so that background pixels count nowhere (ARI_fg).

    Returns:
        value: (b) float64, at most 1; 0 where not valid.
        valid: (b) bool, True where a pixel is left.
    """
    if skip_background:
        table = table[:, :, 1:]
    pixels = table.sum(dim=(1, 2))
    all_pairs = pairs_among(pixels)
    pairs = pairs_among(table).sum(dim=(1, 2))
    true_pairs = pairs_among(table.sum(dim=1)).sum(dim=1)
    predicted_pairs = pairs_among(table.sum(dim=2)).sum(dim=1)
    expected = true_pairs.double() * predicted_pairs.double() / all_pairs.clamp(min=1).double()
    spread = (true_pairs + predicted_pairs).double() / 2 - expected
    # the spread is 0 exactly here; decided on integers, because its float64 value may miss 0 by rounding
    trivial = (true_pairs == predicted_pairs) & ((true_pairs == all_pairs) | (true_pairs == 0))
    value = torch.where(trivial, 1.0, (pairs.double() - expected) / torch.where(trivial, 1.0, spread))
    valid = pixels > 0
    return torch.where(valid, value, 0.0), valid


def iou(table: Tensor, areas: Tensor | None = None) -> Tensor:
    """Compute intersection over union of every predicted with every true segment.

    Args:
        table: (b k l) int64, from `contingency`.
        areas: (b k) int64, sizes of the predicted segments where these cover pixels that the table lacks; None = the
            sums of its rows.

    Returns:
        (b k l) float64 in [0, 1]; 0 where the union is empty.
    """
    areas = table.sum(dim=2) if areas is None else areas
    union = areas[:, :, None] + table.sum(dim=1, keepdim=True) - table
    return table.double() / union.clamp(min=1).double()


def mean_best_overlap(
    table: Tensor, skip_background: bool = False, areas: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Average, over the true segments, the IoU of the prediction that overlaps each best; one may serve several.

    Pont-Tuset et al., TPAMI 2017.

    Args:
        table: (b k l) int64, from `contingency`.
        skip_background: leave true segment 0 out; its pixels stay in the areas of the predicted segments.
        areas: see `iou`.

    Returns:
        value: (b) float64 in [0, 1]; 0 where not valid.
        valid: (b) bool, True where a true segment is left.
    """
    first = int(skip_background)
    best = iou(table, areas)[:, :, first:].amax(dim=1)
    return _mean_over_segments(best.sum(dim=1), table[:, :, first:])


def mean_iou(table: Tensor, skip_background: bool = False, areas: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Average the IoU over the true segments, each matched to a prediction of its own so that the sum is largest.

    Unmatched true segments count 0. The assignment (Hungarian algorithm) runs on the CPU, after one transfer.

    Args:
        table: (b k l) int64, from `contingency`.
        skip_background: leave true segment 0 out; its pixels stay in the areas of the predicted segments.
        areas: see `iou`.

    Returns:
        value: (b) float64 in [0, 1]; 0 where not valid.
        valid: (b) bool, True where a true segment is left.
    """
    first = int(skip_background)
    overlaps = iou(table, areas)[:, :, first:].cpu().numpy()
    sums = [float(overlap[linear_sum_assignment(overlap, maximize=True)].sum()) for overlap in overlaps]
    total = torch.tensor(sums, dtype=torch.float64, device=table.device)
    return _mean_over_segments(total, table[:, :, first:])


@register
class Segmentation:
    """Score index maps against true ones; all scores come from one contingency table.

    `ari`, `mbo` and `miou` treat the background as an object, `ari_fg`, `mbo_fg` and `miou_fg` leave it out. Clips
    count as one picture: a segment must keep its object over time. Pixels of `ignore` count nowhere, not in the areas
    of the predicted segments either.
    """

    def __init__(
        self,
        prediction: str = "output.segment",
        target: str = "batch.segment",
        scores: tuple[str, ...] = SCORES,
        ignore: str | None = None,
    ):
        """Set the paths of the two maps, the scores wanted, and the path of a map of pixels to leave out.

        Raises:
            ValueError: a score is unknown.
        """
        unknown = [name for name in scores if name not in SCORES]
        if unknown:
            raise ValueError(f"unknown scores {', '.join(map(repr, unknown))}; known: {', '.join(SCORES)}")
        self.prediction = prediction
        self.target = target
        self.scores = tuple(scores)
        self.ignore = ignore

    def __call__(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        """Score each sample; the maps are (b h w) or (b t h w) integer, the true one with 0 = background.

        The map of pixels to leave out is bool, of the same shape. A sample without any other pixel is not valid.

        Returns:
            name -> (value (b) float64, 0 where not valid; valid (b) bool).

        Raises:
            ConfigError: a path leads to no tensor.
            ValueError: the maps differ in shape or hold no ids, or `ignore` is not bool.
        """
        prediction, target, valid = self.fetch(batch, output)
        prediction, target, rows, columns = compact(prediction.flatten(1), target.flatten(1))
        valid = None if valid is None else valid.flatten(1)
        pieces = [
            self.score(count_pairs(prediction[p], target[p], rows, columns, None if valid is None else valid[p]))
            for p in parts(len(prediction), rows * columns)
        ]
        return join(pieces)

    def fetch(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return predicted map, true map, and the pixels to count (bool, None = all), of one shape; errors as above."""
        prediction = fetch_tensor(self.prediction, batch, output, "Segmentation.prediction")
        target = fetch_tensor(self.target, batch, output, "Segmentation.target")
        if prediction.shape != target.shape or prediction.ndim < 2:
            raise ValueError(
                f"{self.prediction} {tuple(prediction.shape)} and {self.target} {tuple(target.shape)}: "
                "two index maps of one shape (b h w) or (b t h w) are needed"
            )
        return prediction, target, self._fetch_valid(batch, output, target)

    def _fetch_valid(self, batch: Mapping[str, Any], output: Mapping[str, Any], target: Tensor) -> Tensor | None:
        if self.ignore is None:
            return None
        ignore = fetch_tensor(self.ignore, batch, output, "Segmentation.ignore")
        if ignore.shape != target.shape or ignore.dtype != torch.bool:
            raise ValueError(
                f"{self.ignore} is {tuple(ignore.shape)} {ignore.dtype}; "
                f"to go with {self.target} it must be {tuple(target.shape)} bool"
            )
        return ~ignore

    def score(self, table: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Return name -> (value (b), valid (b)) of contingency tables (b k l) int64."""
        functions = {"ari": adjusted_rand_index, "mbo": mean_best_overlap, "miou": mean_iou}
        return {name: functions[name.removesuffix("_fg")](table, name.endswith("_fg")) for name in self.scores}


class Average:
    """Weighted means over samples, whatever the batch sizes; sums stay on the device until they are asked for."""

    def __init__(self):
        self._sums: dict[str, Tensor] = {}  # name -> (weighted sum of values, weights, valid samples, samples) float64

    def update(self, scores: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add a batch.

        Args:
            scores: name -> (value (b), valid (b)), as metrics return them. `valid` is bool, or float64 weights >= 0
                such as the number of frames that a value is the mean of. Values that are not valid, or of weight 0,
                may be NaN.

        Raises:
            ValueError: a value and its validity differ in shape.
        """
        for name, (value, valid) in scores.items():
            if value.shape != valid.shape:
                raise ValueError(f"{name}: values {tuple(value.shape)}, but validities {tuple(valid.shape)}")
            value = value.detach().double()
            if valid.dtype == torch.bool:
                total, count = torch.where(valid, value, 0.0).sum(), valid.sum(dtype=torch.float64)
                weight = count
            else:
                total, weight = torch.where(valid > 0, value * valid, 0.0).sum(), valid.double().sum()
                count = (valid > 0).sum(dtype=torch.float64)
            addition = torch.stack([total, weight, count, torch.full_like(count, valid.numel())])
            known = self._sums.get(name)
            self._sums[name] = addition if known is None else known.to(addition.device) + addition

    def result(self) -> dict[str, float]:
        """Return name -> mean over the valid samples; names without a valid sample are left out."""
        return {name: total / weight for name, (total, weight, _, _) in self.sums().items() if weight > 0}

    def excluded(self) -> dict[str, int]:
        """Return name -> number of samples that were not valid."""
        return {name: int(samples - count) for name, (_, _, count, samples) in self.sums().items()}

    def sums(self) -> dict[str, list[float]]:
        """Return what the means are made of, by one transfer; to be kept in a checkpoint or sent to other processes."""
        if not self._sums:
            return {}
        return dict(zip(self._sums, torch.stack(list(self._sums.values())).tolist(), strict=True))

    @classmethod
    def total(cls, parts: Iterable[Mapping[str, list[float]]]) -> "Average":
        """Return the average over all that was added to several of them, from their `sums`."""
        together = cls()
        for part in parts:
            for name, sums in part.items():
                addition = torch.tensor(sums, dtype=torch.float64)
                known = together._sums.get(name)
                together._sums[name] = addition if known is None else known + addition
        return together


def pairs_among(count: Tensor) -> Tensor:
    """Return the number of ordered pairs among `count` things; exact int64 up to 3e9 things."""
    return count * (count - 1)


def _mean_over_segments(total: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Divide a sum over true segments (b) by the number of true segments in the table that are not empty."""
    segments = (table.sum(dim=1) > 0).sum(dim=1)
    return total / segments.clamp(min=1).double(), segments > 0
