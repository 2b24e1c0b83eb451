"""Scores of segmentations: ARI, mBO and mIoU, all from one contingency table per image or clip."""

from collections.abc import Mapping
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from object_centric_bench.learn.path import fetch_tensor
from object_centric_bench.registry import register

SCORES = ("ari", "ari_fg", "mbo", "miou", "mbo_fg", "miou_fg")

DENSE_ENTRIES = 2**22  # a larger batch of tables is made from compacted ids: sorting pixels is then the smaller cost
PIECE_ENTRIES = 2**24  # images whose tables are scored at once: 128 MiB per float64 temporary
LARGEST_TABLE = 2**31  # entries, 16 GiB; more is a mistake, such as an instance id per pixel


def contingency(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Count, per sample, the pixels of each (predicted id, true id) pair, by one bincount for the whole batch.

    Column 0 always belongs to the true id 0, the background. While the table of all ids up to the largest is small,
    row i and column j are the ids themselves; otherwise they are the ranks of the ids that the sample holds.

    Args:
        prediction: (b n) integer, ids >= 0.
        target: (b n) integer, ids >= 0, 0 = background.
        valid: (b n) bool, pixels to count; None = all.

    Returns:
        (b k l) int64, k and l the largest numbers of ids in the batch; samples with fewer have zero rows and columns.

    Raises:
        ValueError: the shapes differ, an id is negative or no integer, or the table would not fit into memory.
    """
    prediction, target, rows, columns = _compact(prediction, target)
    return _count(prediction, target, rows, columns, valid)


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
    all_pairs = _pairs(pixels)
    pairs = _pairs(table).sum(dim=(1, 2))
    true_pairs = _pairs(table.sum(dim=1)).sum(dim=1)
    predicted_pairs = _pairs(table.sum(dim=2)).sum(dim=1)
    expected = true_pairs.double() * predicted_pairs.double() / all_pairs.clamp(min=1).double()
    spread = (true_pairs + predicted_pairs).double() / 2 - expected
    # the spread is 0 exactly here; decided on integers, because its float64 value may miss 0 by rounding
    trivial = (true_pairs == predicted_pairs) & ((true_pairs == all_pairs) | (true_pairs == 0))
    value = torch.where(trivial, 1.0, (pairs.double() - expected) / torch.where(trivial, 1.0, spread))
    valid = pixels > 0
    return torch.where(valid, value, 0.0), valid


def iou(table: Tensor) -> Tensor:
    """Compute intersection over union of every predicted with every true segment.

    Args:
        table: (b k l) int64, from `contingency`.

    Returns:
        (b k l) float64 in [0, 1]; 0 where the union is empty.
    """
    union = table.sum(dim=2, keepdim=True) + table.sum(dim=1, keepdim=True) - table
    return table.double() / union.clamp(min=1).double()


def mean_best_overlap(table: Tensor, skip_background: bool = False) -> tuple[Tensor, Tensor]:
    """Average, over the true segments, the IoU of the prediction that overlaps each best; one may serve several.

    Pont-Tuset et al., TPAMI 2017.

    Args:
        table: (b k l) int64, from `contingency`.
        skip_background: leave true segment 0 out; its pixels stay in the areas of the predicted segments.

    Returns:
        value: (b) float64 in [0, 1]; 0 where not valid.
        valid: (b) bool, True where a true segment is left.
    """
    first = int(skip_background)
    best = iou(table)[:, :, first:].amax(dim=1)
    return _mean_over_segments(best.sum(dim=1), table[:, :, first:])


def mean_iou(table: Tensor, skip_background: bool = False) -> tuple[Tensor, Tensor]:
    """Average the IoU over the true segments, each matched to a prediction of its own so that the sum is largest.

    Unmatched true segments count 0. The assignment (Hungarian algorithm) runs on the CPU, after one transfer.

    Args:
        table: (b k l) int64, from `contingency`.
        skip_background: leave true segment 0 out; its pixels stay in the areas of the predicted segments.

    Returns:
        value: (b) float64 in [0, 1]; 0 where not valid.
        valid: (b) bool, True where a true segment is left.
    """
    first = int(skip_background)
    overlaps = iou(table)[:, :, first:].cpu().numpy()
    total = [float(overlap[linear_sum_assignment(overlap, maximize=True)].sum()) for overlap in overlaps]
    total = torch.tensor(total, dtype=torch.float64, device=table.device)
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
        prediction = fetch_tensor(self.prediction, batch, output, "Segmentation.prediction")
        target = fetch_tensor(self.target, batch, output, "Segmentation.target")
        if prediction.shape != target.shape or prediction.ndim < 2:
            raise ValueError(
                f"{self.prediction} {tuple(prediction.shape)} and {self.target} {tuple(target.shape)}: "
                "two index maps of one shape (b h w) or (b t h w) are needed"
            )
        valid = None if self.ignore is None else self._fetch_valid(batch, output, target)
        prediction, target, rows, columns = _compact(prediction.flatten(1), target.flatten(1))
        size = max(1, PIECE_ENTRIES // (rows * columns))
        pieces = [
            self._score(_count(prediction[part], target[part], rows, columns, None if valid is None else valid[part]))
            for part in (slice(start, start + size) for start in range(0, max(len(prediction), 1), size))
        ]
        return {
            name: (torch.cat([piece[name][0] for piece in pieces]), torch.cat([piece[name][1] for piece in pieces]))
            for name in self.scores
        }

    def _fetch_valid(self, batch: Mapping[str, Any], output: Mapping[str, Any], target: Tensor) -> Tensor:
        ignore = fetch_tensor(self.ignore, batch, output, "Segmentation.ignore")
        if ignore.shape != target.shape or ignore.dtype != torch.bool:
            raise ValueError(
                f"{self.ignore} is {tuple(ignore.shape)} {ignore.dtype}; "
                f"to go with {self.target} it must be {tuple(target.shape)} bool"
            )
        return ~ignore.flatten(1)

    def _score(self, table: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        functions = {"ari": adjusted_rand_index, "mbo": mean_best_overlap, "miou": mean_iou}
        return {name: functions[name.removesuffix("_fg")](table, name.endswith("_fg")) for name in self.scores}


class Average:
    """Means over valid samples, whatever the batch sizes; sums stay on the device until they are asked for."""

    def __init__(self):
        self._sums: dict[str, Tensor] = {}  # name -> (sum of values, valid samples, samples) float64

    def update(self, scores: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add a batch.

        Args:
            scores: name -> (value (b), valid (b) bool), as metrics return them; values that are not valid may be NaN.

        Raises:
            ValueError: a value and its validity differ in shape.
        """
        for name, (value, valid) in scores.items():
            if value.shape != valid.shape:
                raise ValueError(f"{name}: values {tuple(value.shape)}, but validities {tuple(valid.shape)}")
            total = torch.where(valid, value.detach().double(), 0.0).sum()
            count = valid.sum(dtype=torch.float64)
            addition = torch.stack([total, count, torch.full_like(count, valid.numel())])
            self._sums[name] = self._sums[name] + addition if name in self._sums else addition

    def result(self) -> dict[str, float]:
        """Return name -> mean over the valid samples; names without a valid sample are left out."""
        return {name: total / count for name, (total, count, _) in self._fetch().items() if count > 0}

    def excluded(self) -> dict[str, int]:
        """Return name -> number of samples that were not valid."""
        return {name: int(samples - count) for name, (_, count, samples) in self._fetch().items()}

    def _fetch(self) -> dict[str, list[float]]:
        """Bring all sums to the CPU by one transfer."""
        if not self._sums:
            return {}
        return dict(zip(self._sums, torch.stack(list(self._sums.values())).tolist(), strict=True))


def _pairs(count: Tensor) -> Tensor:
    """Return the number of ordered pairs among `count` things; exact int64 up to 3e9 things."""
    return count * (count - 1)


def _mean_over_segments(total: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Divide a sum over true segments (b) by the number of true segments in the table that are not empty."""
    segments = (table.sum(dim=1) > 0).sum(dim=1)
    return total / segments.clamp(min=1).double(), segments > 0


def _compact(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, int, int]:
    """Check the ids (b n) and make them small; return them with the table's numbers of rows and columns."""
    if prediction.shape != target.shape or prediction.ndim != 2:
        raise ValueError(f"two index maps (b n) are needed, got {tuple(prediction.shape)} and {tuple(target.shape)}")
    prediction, target = _integer(prediction, "prediction"), _integer(target, "target")
    if prediction.numel() == 0:
        return prediction, target, 1, 1
    bounds = [bound.long() for ids in (prediction, target) for bound in ids.aminmax()]
    low, high, true_low, true_high = torch.stack(bounds).tolist()  # the only wait for the device
    if low < 0 or true_low < 0:
        raise ValueError(f"ids must be >= 0, the smallest are {low} in the prediction and {true_low} in the target")
    rows, columns = high + 1, true_high + 1
    if len(prediction) * rows * columns > DENSE_ENTRIES:
        prediction, rows = _rank(prediction)
        background = target.new_zeros(len(target), 1)  # gives id 0 the rank 0 where a sample lacks it
        target, columns = _rank(torch.cat([background, target], dim=1))
        target = target[:, 1:]
    return prediction, target, rows, columns


def _integer(ids: Tensor, name: str) -> Tensor:
    """Return ids of a type that PyTorch can calculate with."""
    if ids.is_floating_point() or ids.is_complex():
        raise ValueError(f"{name} must hold integer ids, not {ids.dtype}")
    if ids.dtype == torch.bool:
        return ids.to(torch.uint8)
    return ids.long() if ids.dtype in (torch.uint16, torch.uint32, torch.uint64) else ids


def _rank(ids: Tensor) -> tuple[Tensor, int]:
    """Replace each id (b n) by its rank among the ids of its sample; return the largest number of ids as well."""
    width = int(ids.max()) + 1
    offsets = torch.arange(len(ids) + 1, device=ids.device) * width
    values, ranks = torch.unique(ids.long() + offsets[:-1, None], return_inverse=True)  # sorted: sample after sample
    first = torch.searchsorted(values, offsets)
    return ranks - first[:-1, None], int(first.diff().max())


def _count(prediction: Tensor, target: Tensor, rows: int, columns: int, valid: Tensor | None = None) -> Tensor:
    """Make the table (b k l) from ids below `rows` and `columns`."""
    batch_size, entries = len(prediction), len(prediction) * rows * columns
    if entries > LARGEST_TABLE:
        raise ValueError(f"{rows} predicted and {columns} true segments in {batch_size} samples: too many for a table")
    # the smallest type that holds every index: with int16, 32 pairs of 256 x 256 take a tenth of the time of int64
    fitting = (dtype for dtype in (torch.int16, torch.int32, torch.int64) if entries <= torch.iinfo(dtype).max)
    dtype = next(fitting)
    offsets = torch.arange(batch_size, device=prediction.device)[:, None] * (rows * columns)
    # all of one type: PyTorch converts mixed ones number by number
    index = torch.add(target.to(dtype), prediction.to(dtype), alpha=columns).add_(offsets.to(dtype))
    if valid is not None:
        if valid.shape != index.shape or valid.dtype != torch.bool:
            raise ValueError(f"valid must be {tuple(index.shape)} bool, not {tuple(valid.shape)} {valid.dtype}")
        index = torch.where(valid, index, entries)  # a bin of their own, dropped below
    table = torch.bincount(index.flatten(), minlength=entries)
    return table[:entries].view(batch_size, rows, columns)
