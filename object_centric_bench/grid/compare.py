"""Is A better than B? The same images under the same seeds, resampled."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

REPLICATES = 10_000
SEED = 0  # of the resampling: the same runs always give the same interval
AT_ONCE = 10_000_000  # drawn indices held in memory


@dataclass(frozen=True)
class Comparison:
    """A against B in one score; differences are A - B.

    Attributes:
        difference: mean over images and seeds.
        low: 2.5 % of resampled differences are below.
        high: 2.5 % are above.
        p_value: two-sided, of no difference; never below 1 / (replicates + 1).
        effect: mean over standard deviation of the images' differences (Cohen's d of pairs).
        num_seeds: seeds that both have.
        num_images: images that count, per seed on average.
        excluded: images left out, summed over seeds, because one of the two has no score there.
        changed: (image, difference, its mean over seeds), the largest gains first, the largest losses last.
    """

    difference: float
    low: float
    high: float
    p_value: float
    effect: float
    num_seeds: int
    num_images: float
    excluded: int
    changed: list[tuple[str, float]]


def compare(first: Sequence[list[dict]], second: Sequence[list[dict]], metric: str, shown: int = 5) -> Comparison:
    """Compare two methods by a hierarchical paired bootstrap: seeds are drawn again, and images within each.

    Drawing seeds again says what another seed may give, drawing images what another test set may. With few seeds the
    first is a rough guess: read an interval over three seeds so.

    Args:
        first: A's images of each seed: dicts with `id` and scores, None where a score is not defined.
        second: B's, of the same seeds in the same order.
        metric: name of the score.
        shown: how many of the largest gains and losses to name.

    Raises:
        ValueError: no seed, images differ, or no image has a score in both.
    """
    if not first or len(first) != len(second):
        raise ValueError("both need the same seeds, one at least")
    differences: list[np.ndarray] = []
    by_image: dict[str, list[float]] = {}
    excluded = 0
    for ours, theirs in zip(first, second, strict=True):
        a, b = ({row["id"]: row.get(metric) for row in rows} for rows in (ours, theirs))
        if a.keys() != b.keys():
            raise ValueError(f"they were scored on different images: {len(a)} and {len(b)}, {len(a.keys() & b)} common")
        pairs = {key: x - y for key in a if (x := a[key]) is not None and (y := b[key]) is not None}
        excluded += len(a) - len(pairs)
        if not pairs:
            raise ValueError(f"no image has {metric!r} in both")
        differences.append(np.fromiter(pairs.values(), float))
        for key, value in pairs.items():
            by_image.setdefault(key, []).append(value)
    drawn = bootstrap(differences)
    means = sorted(((key, float(np.mean(values))) for key, values in by_image.items()), key=lambda pair: -pair[1])
    everything = np.concatenate(differences)
    spread = everything.std(ddof=1) if len(everything) > 1 else 0.0
    tail = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Comparison(
        difference=float(np.mean([part.mean() for part in differences])),
        low=float(low),
        high=float(high),
        p_value=min(1.0, 2 * (int(tail) + 1) / (len(drawn) + 1)),
        effect=float(everything.mean() / spread) if spread else 0.0,
        num_seeds=len(differences),
        num_images=len(everything) / len(differences),
        excluded=excluded,
        changed=means if len(means) <= 2 * shown else means[:shown] + means[-shown:],
    )


def bootstrap(differences: Sequence[np.ndarray], replicates: int = REPLICATES) -> np.ndarray:
    """Return resampled mean differences (replicates,): seeds drawn with replacement, then images of each drawn seed.

    Args:
        differences: per seed (images,).
        replicates: how many.
    """
    rng = np.random.default_rng(SEED)
    count = len(differences)
    seeds = rng.integers(count, size=(replicates, count))
    sums = np.zeros(replicates)
    for seed, values in enumerate(differences):
        # each time that this seed was drawn, its images are drawn anew
        owner = np.repeat(np.arange(replicates), np.count_nonzero(seeds == seed, axis=1))
        step = max(1, AT_ONCE // len(values))
        for start in range(0, len(owner), step):
            part = owner[start : start + step]
            means = values[rng.integers(len(values), size=(len(part), len(values)))].mean(axis=1)
            np.add.at(sums, part, means)
    return sums / count


def report(names: tuple[str, str], results: dict[str, Comparison]) -> str:
    """Return comparisons, score -> result, as text."""
    some = next(iter(results.values()))
    lines = [
        f"A = {names[0]}, B = {names[1]}; {some.num_seeds} seeds, {some.num_images:.0f} images each; A - B in per cent",
        f"{'score':<8}{'A - B':>8}{'95 % interval':>20}{'p':>9}{'effect':>8}{'excluded':>10}",
    ]
    for metric, found in results.items():
        interval = f"{100 * found.low:+.2f} .. {100 * found.high:+.2f}"
        lines.append(
            f"{metric:<8}{100 * found.difference:>+8.2f}{interval:>20}{found.p_value:>9.4f}{found.effect:>+8.2f}"
            f"{found.excluded:>10}"
        )
    for metric, found in results.items():
        changed = ", ".join(f"{image} {100 * value:+.1f}" for image, value in found.changed)
        lines.append(f"{metric} changed most: {changed}")
    return "\n".join(lines)
