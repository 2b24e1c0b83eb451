"""Paired bootstrap: against scipy's, and with differences that are known."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from object_centric_bench.grid.compare import bootstrap, compare, report


def images(values):
    return [{"id": f"image-{k}", "mbo": value} for k, value in enumerate(values)]


def test_the_interval_of_one_seed_is_scipy_s():
    rng = np.random.default_rng(3)
    ours, theirs = rng.normal(0.6, 0.1, 400), rng.normal(0.58, 0.1, 400)
    found = compare([images(ours)], [images(theirs)], "mbo")
    expected = scipy.stats.bootstrap(
        (ours - theirs,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.difference == pytest.approx(ours.mean() - theirs.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=5e-4)
    assert found.effect == pytest.approx((ours - theirs).mean() / (ours - theirs).std(ddof=1))


def test_spread_over_seeds_widens_the_interval_as_theory_says():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (5, 200))
    noise -= noise.mean(axis=1, keepdims=True)
    shifts = np.array([-0.1, -0.05, 0.0, 0.05, 0.1])
    drawn = bootstrap([row + shift for row, shift in zip(noise, shifts, strict=True)], replicates=20_000)
    expected = np.sqrt(shifts.var() / 5 + noise.var() / (5 * 200))  # between seeds, and within
    assert drawn.std() == pytest.approx(expected, rel=0.03)
    assert drawn.mean() == pytest.approx(0, abs=3e-3)


def test_a_clear_difference_is_found_and_none_is_not():
    rng = np.random.default_rng(1)
    base = [rng.uniform(0.2, 0.8, 100) for _ in range(3)]
    better = [images(row + 0.1 + rng.normal(0, 0.02, 100)) for row in base]
    found = compare(better, [images(row) for row in base], "mbo")
    assert found.low > 0.09 and found.high < 0.11 and found.p_value < 0.001
    same = compare([images(row) for row in base], [images(row) for row in base], "mbo")
    assert same.difference == 0 and same.p_value == 1 and same.effect == 0


def test_images_without_a_score_are_left_out_of_both_and_the_largest_changes_named():
    ours, theirs = [0.5, None, 0.9, 0.1, 0.5], [0.5, 0.5, None, 0.6, 0.2]
    found = compare([images(ours)], [images(theirs)], "mbo", shown=1)
    assert found.excluded == 2 and found.num_images == 3
    assert [name for name, _ in found.changed] == ["image-4", "image-3"]
    assert [value for _, value in found.changed] == pytest.approx([0.3, -0.5])
    text = report(("a", "b"), {"mbo": found})
    assert "image-3 -50.0" in text and "-6.67" in text


def test_other_images_or_seeds_are_refused():
    with pytest.raises(ValueError, match="different images: 2 and 3, 2 common"):
        compare([images([0.1, 0.2])], [images([0.1, 0.2, 0.3])], "mbo")
    with pytest.raises(ValueError, match="same seeds"):
        compare([images([0.1])], [], "mbo")
    with pytest.raises(ValueError, match="no image has 'mbo' in both"):
        compare([images([None])], [images([0.1])], "mbo")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.integers(1, 4))
def test_the_interval_never_leaves_the_range_of_the_differences(values, seeds):
    drawn = bootstrap([np.array(values)] * seeds, replicates=50)
    assert drawn.min() >= min(values) - 1e-12 and drawn.max() <= max(values) + 1e-12
