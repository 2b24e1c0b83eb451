"""Compare the time of all scores from one contingency table with that of each score from one-hot tensors.

Run as `python -m benchmarks.metric`. Both sides are timed in turns in the same process, so that a busy machine slows
both; the medians and their ratio are printed.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from object_centric_bench.learn.metric import Segmentation

SCORES = ("ari", "ari_fg", "mbo", "miou")


def one_hot_scores(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Compute the four scores the plain way, each from one-hot tensors of its own; maps (b n) int64."""
    return {
        "ari": one_hot_ari(prediction, target, first=0),
        "ari_fg": one_hot_ari(prediction, target, first=1),
        "mbo": one_hot_iou(prediction, target).amax(dim=1).sum(dim=1) / segments(target),
        "miou": matched_sum(one_hot_iou(prediction, target)) / segments(target),
    }


def one_hot(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps as (b n k) float64."""
    return F.one_hot(prediction).double(), F.one_hot(target).double()


def one_hot_ari(prediction: Tensor, target: Tensor, first: int) -> Tensor:
    """Compute the ARI, without the true segments before `first`."""
    predicted, true = one_hot(prediction, target)
    table = torch.einsum("bnk,bnl->bkl", predicted, true[:, :, first:])
    pairs = (table * (table - 1)).sum(dim=(1, 2))
    rows, columns, pixels = table.sum(dim=2), table.sum(dim=1), table.sum(dim=(1, 2))
    row_pairs, column_pairs = (rows * (rows - 1)).sum(dim=1), (columns * (columns - 1)).sum(dim=1)
    expected = row_pairs * column_pairs / (pixels * (pixels - 1))
    return (pairs - expected) / ((row_pairs + column_pairs) / 2 - expected)


def one_hot_iou(prediction: Tensor, target: Tensor) -> Tensor:
    """Compute the IoU of all pairs of segments, (b k l)."""
    predicted, true = one_hot(prediction, target)
    table = torch.einsum("bnk,bnl->bkl", predicted, true)
    union = predicted.sum(dim=1)[:, :, None] + true.sum(dim=1)[:, None, :] - table
    return table / union.clamp(min=1)


def matched_sum(overlaps: Tensor) -> Tensor:
    """Sum the IoU over the best one-to-one assignment, per sample."""
    return torch.tensor([overlap[linear_sum_assignment(overlap, maximize=True)].sum() for overlap in overlaps.numpy()])


def segments(target: Tensor) -> Tensor:
    """Count the true segments per sample."""
    return F.one_hot(target).any(dim=1).sum(dim=1)


def label_maps(samples: int, size: int, labels: int, cell: int, generator: torch.Generator) -> Tensor:
    """Draw maps (b h w) uint8 of square cells with random labels, which resemble pictures more than noise does."""
    cells = torch.randint(labels, (samples, size // cell, size // cell), generator=generator, dtype=torch.uint8)
    return cells.repeat_interleave(cell, dim=1).repeat_interleave(cell, dim=2)


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Time both, check that they agree, print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="timings of each side (default: 7)")
    rounds = parser.parse_args().rounds

    generator = torch.Generator().manual_seed(0)
    prediction = label_maps(32, 256, 7, 16, generator)
    target = label_maps(32, 256, 20, 32, generator)
    metric = Segmentation(scores=SCORES)
    batch, output = {"segment": target}, {"segment": prediction}
    flat = prediction.flatten(1).long(), target.flatten(1).long()

    # the first call of each also warms up
    reference = one_hot_scores(*flat)
    error = max((metric(batch, output)[name][0] - reference[name]).abs().max().item() for name in SCORES)
    ours, plain = [], []
    for _ in range(rounds):
        ours.append(seconds(lambda: metric(batch, output)))
        plain.append(seconds(lambda: one_hot_scores(*flat)))
    fast, slow = statistics.median(ours), statistics.median(plain)
    print(f"32 pairs of 256 x 256, 7 and 20 labels, {torch.get_num_threads()} threads, {rounds} rounds, medians")
    print(f"one table, {', '.join(SCORES)}: {1e3 * fast:.2f} ms")
    print(f"one-hot float64, each by itself: {1e3 * slow:.1f} ms")
    print(f"ratio {slow / fast:.0f}, largest difference {error:.1e}")


if __name__ == "__main__":
    main()
