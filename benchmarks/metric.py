"""Compare the time of all scores from one contingency table with that of each score from one-hot tensors.

Run as `python -m benchmarks.metric`; one thread. Both sides are timed in turns in the same process, so that a busy
machine slows both.
"""

import argparse

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from benchmarks.table import Line, Options, markdown, seconds
from object_centric_bench.learn.metric import Segmentation

SCORES = ("ari", "ari_fg", "mbo", "miou")
TARGET = 30.0


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
    sums = [overlap[linear_sum_assignment(overlap, maximize=True)].sum() for overlap in overlaps.cpu().numpy()]
    return torch.tensor(sums, device=overlaps.device)


def segments(target: Tensor) -> Tensor:
    """Count the true segments per sample."""
    return F.one_hot(target).any(dim=1).sum(dim=1)


def label_maps(samples: int, size: int, labels: int, cell: int, generator: torch.Generator) -> Tensor:
    """Draw maps (b h w) uint8 of square cells with random labels, which resemble pictures more than noise does."""
    cells = torch.randint(labels, (samples, size // cell, size // cell), generator=generator, dtype=torch.uint8)
    return cells.repeat_interleave(cell, dim=1).repeat_interleave(cell, dim=2)


def lines(options: Options) -> list[Line]:
    """Time both ways in turns; the plain one is the floor."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    prediction = label_maps(32, 256, 7, 16, generator).to(options.device)
    target = label_maps(32, 256, 20, 32, generator).to(options.device)
    metric = Segmentation(scores=SCORES)
    batch, output = {"segment": target}, {"segment": prediction}
    flat = prediction.flatten(1).long(), target.flatten(1).long()
    reference = one_hot_scores(*flat)
    error = max((metric(batch, output)[name][0] - reference[name]).abs().max().item() for name in SCORES)
    if error > 1e-9:
        raise RuntimeError(f"the two ways differ by {error:.1e}")

    def ours() -> None:
        metric(batch, output)["miou"][0].cpu()  # the last to be ready

    def plain() -> None:
        one_hot_scores(*flat)["miou"].cpu()

    fast, slow = seconds([ours, plain], min(options.rounds, 2))  # the plain way takes seconds
    what = f"{', '.join(SCORES)} of 32 pairs of 256x256, {options.device}"
    return [Line(what, 1e3 * fast, "ms", 1e3 * slow, "plain: each from one-hot float64", TARGET)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metric", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=Options().rounds, help="timings of each side [5]")
    parser.add_argument("--device", default=Options().device, help="where to compute [cpu]")
    options = parser.parse_args()
    print(markdown(lines(Options(options.rounds, options.device))))


if __name__ == "__main__":
    main()
