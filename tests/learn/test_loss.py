"""Losses against plain PyTorch."""

import pytest
import torch
import torch.nn.functional as F

from object_centric_bench.learn.loss import MSE, CrossEntropy, UnitNorm
from object_centric_bench.registry import ConfigError, build


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_mse_is_the_weighted_mean_square_and_leaves_the_target_alone():
    prediction, target = draw(2, 3, 4).requires_grad_(), draw(2, 3, 5)[..., :4].requires_grad_()
    loss = MSE("output.x", "batch.y", weight=0.25)({"y": target}, {"x": prediction})
    assert loss.shape == ()
    torch.testing.assert_close(loss, 0.25 * ((prediction - target) ** 2).mean())
    loss.backward()
    torch.testing.assert_close(prediction.grad, (0.25 * 2 / 24 * (prediction - target)).detach())
    assert target.grad is None


def test_mse_of_two_outputs_that_share_a_graph():
    feature = draw(2, 3).requires_grad_()
    MSE("output.a", "output.b")({}, {"a": 2 * feature, "b": feature}).backward()
    torch.testing.assert_close(feature.grad, 2 / 6 * 2 * (2 * feature - feature).detach())


@pytest.mark.parametrize("shape", [(2, 3, 1), (1, 3, 4), (3, 4), (2, 4, 3)])
def test_mse_never_broadcasts(shape):
    with pytest.raises(ValueError, match=r"MSE: output\.x is \(2, 3, 4\) and batch\.y is \("):
        MSE("output.x", "batch.y")({"y": draw(*shape)}, {"x": draw(2, 3, 4)})


@pytest.mark.parametrize(("shape", "axis"), [((2, 7, 3, 4), 1), ((2, 5, 7, 3, 4), 2)])
def test_cross_entropy_of_pictures_and_clips(shape, axis):
    logits = draw(*shape).requires_grad_()
    target = torch.arange(logits.numel() // 7).remainder(7).view(shape[:axis] + shape[axis + 1 :])
    loss = CrossEntropy("output.logits", "output.code", weight=2.0)({}, {"logits": logits, "code": target})
    expected = -2 * logits.log_softmax(axis).gather(axis, target.unsqueeze(axis)).mean()
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])


@pytest.mark.parametrize("shape", [(2, 3, 4, 1), (2, 4, 3), (3, 4), (2, 7, 3, 4)])
def test_cross_entropy_names_shapes_that_do_not_belong_together(shape):
    with pytest.raises(ValueError, match=r"output\.logits is \(2, 7, 3, 4\) and output\.code is \("):
        loss = CrossEntropy("output.logits", "output.code")
        loss({}, {"logits": draw(2, 7, 3, 4), "code": torch.zeros(shape, dtype=torch.int64)})


def test_cross_entropy_takes_indices_only():
    with pytest.raises(ValueError, match=r"output\.code must hold int64 code indices, not torch\.float32"):
        CrossEntropy("output.logits", "output.code")({}, {"logits": draw(2, 7, 3, 4), "code": draw(2, 3, 4)})


@pytest.mark.parametrize(("shape", "lead"), [((2, 7, 3, 4), 1), ((2, 5, 7, 3, 4), 2)])
def test_cross_entropy_of_groups_is_a_sum_over_their_logits(shape, lead):
    logits = draw(*shape)
    generator = torch.Generator().manual_seed(0)
    places = (*shape[:lead], *shape[lead + 1 :])
    codes = [torch.randint(size, places, generator=generator) for size in (4, 3)]
    output = {"logits": logits, "code": torch.stack(codes, dim=lead), "first": codes[0], "second": codes[1]}
    output |= {"left": logits.narrow(lead, 0, 4), "right": logits.narrow(lead, 4, 3)}
    loss = CrossEntropy("output.logits", "output.code", weight=2.0, groups=[4, 3])({}, output)
    first = CrossEntropy("output.left", "output.first")({}, output)
    second = CrossEntropy("output.right", "output.second")({}, output)
    torch.testing.assert_close(loss, 2 * (first + second))


@pytest.mark.parametrize("groups", [[7], [4, 4], [3, 2, 2]])
def test_cross_entropy_names_groups_that_do_not_fit(groups):
    loss = CrossEntropy("output.logits", "output.code", groups=groups)
    with pytest.raises(ValueError, match=rf"\(b {sum(groups)} h w\) and \(b {len(groups)} h w\)"):
        loss({}, {"logits": draw(2, 7, 3, 4), "code": torch.zeros(2, 2, 3, 4, dtype=torch.int64)})


@pytest.mark.parametrize("scale", [3, 0.003])  # variances far above and near the 1e-5 that is added to them
@pytest.mark.parametrize(
    ("shape", "joint", "axes"),
    [((2, 6, 3, 4), False, (1, 2, 3)), ((2, 5, 6, 3, 4), False, (2, 3, 4)), ((2, 5, 6, 3, 4), True, (1, 2, 3, 4))],
)
def test_unit_norm_compares_with_detached_normalised_values(shape, joint, axes, scale):
    feature = (scale * draw(*shape).double() + 1).requires_grad_()
    loss = UnitNorm("output.latent", weight=0.1, joint=joint)({}, {"latent": feature})
    fixed = feature.detach()
    variance, mean = torch.var_mean(fixed, dim=axes, correction=0, keepdim=True)
    normalised = (fixed - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(loss, 0.1 * ((feature - normalised) ** 2).mean())
    loss.backward()
    torch.testing.assert_close(feature.grad, 0.2 / feature.numel() * (fixed - normalised))


def test_losses_are_float32_under_autocast():
    """300 ** 2 overflows float16, and bfloat16 keeps 3 digits."""
    latent = torch.full((1, 2, 2, 2), 300.0, dtype=torch.float16)
    output = {"latent": latent, "logits": draw(1, 5, 2, 2).bfloat16(), "code": torch.zeros(1, 2, 2, dtype=torch.int64)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        square = MSE("output.latent", "batch.zero")({"zero": torch.zeros(1, 2, 2, 2)}, output)
        entropy = CrossEntropy("output.logits", "output.code")({}, output)
        norm = UnitNorm("output.latent", weight=1.0)({}, output)
    assert {loss.dtype for loss in (square, entropy, norm)} == {torch.float32}
    assert square.item() == norm.item() == 90_000
    torch.testing.assert_close(entropy, F.cross_entropy(output["logits"].float(), output["code"]))


def test_float64_stays():
    x = draw(2, 3).double()
    assert MSE("output.x", "output.x")({}, {"x": x}).dtype == torch.float64


def test_config_and_wrong_path():
    loss = build(dict(type="MSE", prediction="output.reconstructoin", target="batch.image", weight=1), "loss.main")
    message = r"MSE\.prediction: there is no 'output\.reconstructoin'; did you mean 'output\.reconstruction'\?"
    with pytest.raises(ConfigError, match=message):
        loss({"image": draw(1)}, {"reconstruction": draw(1)})
    with pytest.raises(ConfigError, match=r"loss\.main\.weight: UnitNorm wants float, got 'high'"):
        build(dict(type="UnitNorm", prediction="output.latent", weight="high"), "loss.main")
