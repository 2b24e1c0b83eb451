"""Temporal feature similarity: equal to the authors' code, and what holds of any."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from object_centric_bench.learn.similarity import TemporalSimilarity, similarity_target
from object_centric_bench.registry import ConfigError

FRAMES = [[[1.0, 0], [0, 2], [-1, -1]], [[3, 4], [0, 1], [1, -1]]]  # places of two frames, two channels


def as_maps(places):
    """Return (b t n c) as (b t c n 1)."""
    return torch.as_tensor(places, dtype=torch.float32).transpose(-1, -2)[..., None]


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("temperature", "threshold", "rows"),
    [
        (0.25, 0.0, [[0.380871, 0.034552, 0.584577], [0.310026, 0.689974, 0], [0, 0, 1]]),
        (0.075, 0.0, [[0.193384, 0.000065, 0.806551], [0.064969, 0.935031, 0], [0, 0, 1]]),
        (1.0, None, [[0.375676, 0.206176, 0.418148], [0.409341, 0.499970, 0.090689], [0.199283, 0.264428, 0.536290]]),
    ],
)
def test_equals_a_calculation_by_hand(temperature, threshold, rows):
    """A cosine of exactly 0 survives the threshold 0; rows: places of the first frame."""
    target = similarity_target(as_maps([FRAMES]), temperature, threshold)
    torch.testing.assert_close(target[0, 0], torch.tensor(rows), rtol=0, atol=1e-6)


@pytest.mark.parity
def test_equals_the_reference(golden):
    arrays = np.load(golden / "beyond" / "videosaur_timesim.npz")
    feature = as_maps(arrays["feat"])
    settings = {"t075": (0.075, 0.0), "t15": (0.15, 0.0), "t25": (0.25, 0.0), "t1none": (1.0, None)}
    for name, (temperature, threshold) in settings.items():
        target = similarity_target(feature, temperature, threshold)
        torch.testing.assert_close(target, torch.from_numpy(arrays[name]), rtol=0, atol=1e-5)
    normed = functional.normalize(feature[..., 0], dim=2)
    cosine = torch.einsum("btcn, btcm -> btnm", normed[:, :-1], normed[:, 1:])
    torch.testing.assert_close(cosine, torch.from_numpy(arrays["cos"]), rtol=0, atol=1e-5)
    loss = TemporalSimilarity("output.similarity", "output.feature", 0.25)
    output = {"similarity": as_maps(arrays["pred"]), "feature": feature}
    assert float(loss({}, output)) == pytest.approx(float(arrays["loss_t25"]), abs=1e-5)


@pytest.mark.parametrize("threshold", [None, 0.0, 0.5, 2.0])
@pytest.mark.parametrize("shift", [1, 2])
def test_rows_sum_to_one(threshold, shift):
    target = similarity_target(draw(2, 4, 5, 3, 2), 0.1, threshold, shift)
    assert target.shape == (2, 4 - shift, 6, 6)
    torch.testing.assert_close(target.sum(dim=3), torch.ones(2, 4 - shift, 6))
    if threshold == 2.0:  # no cosine reaches it
        torch.testing.assert_close(target, torch.full_like(target, 1 / 6))


def test_a_place_is_sought_where_it_moved():
    """All features shift by one place: the target of place i is place i + 1 of the next frame."""
    first = torch.eye(6).reshape(1, 6, 6, 1)
    video = torch.stack([first, first.roll(1, dims=2)], dim=1)
    target = similarity_target(video, 0.01)
    torch.testing.assert_close(target[0, 0], torch.eye(6).roll(1, dims=1), rtol=0, atol=1e-6)


def test_the_target_gets_no_gradient_and_the_last_frame_no_loss():
    similarity, feature = draw(2, 3, 4, 2, 2).requires_grad_(), draw(2, 3, 5, 2, 2).requires_grad_()
    loss = TemporalSimilarity("output.similarity", "output.feature", 0.1, weight=0.5)
    value = loss({}, {"similarity": similarity, "feature": feature})
    value.backward()
    assert feature.grad is None
    assert (similarity.grad[:, -1] == 0).all()
    assert (similarity.grad[:, :-1] != 0).any(dim=2).all()
    twice = TemporalSimilarity("output.similarity", "output.feature", 0.1)
    torch.testing.assert_close(twice({}, {"similarity": similarity, "feature": feature}), 2 * value)


def test_the_loss_is_least_where_the_prediction_is_the_target():
    feature = draw(1, 3, 5, 2, 2)
    target = similarity_target(feature, 0.5, None)  # b t n m
    logits = target.log().transpose(2, 3).unflatten(3, (2, 2))
    logits = torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1).requires_grad_()
    loss = TemporalSimilarity("output.similarity", "output.feature", 0.5, None)
    value = loss({}, {"similarity": logits, "feature": feature})
    value.backward()
    assert logits.grad.abs().max() < 1e-6
    entropy = -(target * target.log()).sum(dim=3).mean()
    torch.testing.assert_close(value.detach(), entropy)


@pytest.mark.parametrize("shift", [1, 2])
def test_a_frame_is_compared_with_the_one_that_is_shift_frames_later(shift):
    """A loop over frames and places, by the definition."""
    similarity, feature = draw(1, 5, 6, 3, 2), draw(1, 5, 4, 3, 2)
    places, logits = feature[0].flatten(2), similarity[0].flatten(2)
    terms = []
    for frame in range(5 - shift):
        for place in range(6):
            later = places[frame + shift]
            cosine = torch.stack([functional.cosine_similarity(places[frame, :, place], one, dim=0) for one in later.T])
            chosen = cosine.masked_fill(cosine < 0, float("-inf")) if (cosine >= 0).any() else torch.zeros(6)
            terms.append(functional.cross_entropy(logits[frame, :, place], (chosen / 0.2).softmax(dim=0)))
    loss = TemporalSimilarity("output.similarity", "output.feature", 0.2, shift=shift)
    torch.testing.assert_close(loss({}, {"similarity": similarity, "feature": feature}), torch.stack(terms).mean())


def test_half_precision_is_computed_in_float32():
    with torch.autocast("cpu", torch.bfloat16):
        similarity, feature = draw(1, 2, 4, 2, 2).bfloat16(), draw(1, 2, 5, 2, 2).bfloat16()
        loss = TemporalSimilarity("output.similarity", "output.feature", 0.1)
        value = loss({}, {"similarity": similarity, "feature": feature})
    assert value.dtype == torch.float32


def test_what_does_not_fit_is_named():
    loss = TemporalSimilarity("output.similarity", "output.feature", 0.1)
    with pytest.raises(ValueError, match=r"n = h w wanted"):
        loss({}, {"similarity": draw(1, 2, 3, 2, 2), "feature": draw(1, 2, 5, 2, 2)})
    with pytest.raises(ValueError, match="needs clips of more frames, not of 1"):
        loss({}, {"similarity": draw(1, 1, 4, 2, 2), "feature": draw(1, 1, 5, 2, 2)})
    with pytest.raises(ConfigError, match=r"did you mean 'output\.feature'"):
        TemporalSimilarity("output.similarity", "output.features", 0.1)({}, {"similarity": draw(1), "feature": draw(1)})
    with pytest.raises(ValueError, match="temperature must be positive"):
        TemporalSimilarity("a", "b", 0.0)
    with pytest.raises(ValueError, match="shift is at least 1"):
        similarity_target(draw(1, 2, 5, 2, 2), 0.1, shift=0)
