import pytest
import torch

from object_centric_bench.model import quantizer
from object_centric_bench.model.quantizer import (
    GroupedCodebook,
    LearnedCodebook,
    ProjectedCodebook,
    chi_std,
    choose_codes,
    match_codes,
)
from object_centric_bench.registry import ConfigError, build


@pytest.mark.parametrize(("dim", "expected"), [(2, 0.655136), (4, 0.682428), (128, 0.706413), (256, 0.706761)])
def test_chi_std(dim, expected):
    assert chi_std(dim) == pytest.approx(expected, abs=1e-6)


def test_nearest_code_in_any_chunking(monkeypatch):
    torch.manual_seed(0)
    latent, codes = torch.randn(100, 8), torch.randn(37, 8)
    expected = torch.cdist(latent.double(), codes.double()).argmin(dim=1)
    assert torch.equal(choose_codes(latent, codes), expected)
    monkeypatch.setattr(quantizer, "CHUNK_ELEMENTS", 37 * 7)
    assert torch.equal(choose_codes(latent, codes), expected)


def test_distances_are_float32_under_autocast():
    """Codes 0.05 apart, 10 from the origin: half precision takes most of them for others."""
    torch.manual_seed(0)
    codes = 10 + 0.05 * torch.randn(200, 8)
    latent = codes + 0.001 * torch.randn(200, 8)
    near = torch.cdist(latent.double(), codes.double()).argmin(dim=1)
    half = 0.5 * codes.square().sum(dim=1).bfloat16() - latent.bfloat16() @ codes.bfloat16().T
    assert (half.argmin(dim=1) != near).float().mean() > 0.5
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(choose_codes(latent, codes), near)
        code, probability = match_codes(latent, codes)
        assert torch.equal(code, near) and probability.dtype == torch.float32
        drawn = choose_codes(latent, codes, logit_scale=1000.0)  # so sharp that a draw is the nearest
        assert (drawn == near).float().mean() > 0.95


@pytest.mark.parametrize("kind", ["learned", "projected", "grouped"])
def test_codebooks_quantize_alike_with_and_without_autocast(kind):
    torch.manual_seed(0)
    make = {
        "learned": lambda: LearnedCodebook(200, 8),
        "projected": lambda: ProjectedCodebook(200, 8, basis_dim=16),
        "grouped": lambda: GroupedCodebook([200, 200], 8, basis_dim=16),
    }
    codebook = make[kind]()
    if kind == "learned":
        torch.nn.init.normal_(codebook.codebook, 10, 0.05)
    else:
        for each in [codebook] if kind == "projected" else codebook.groups:
            torch.nn.init.normal_(each.code_proj.weight, std=0.0125)
            torch.nn.init.constant_(each.code_proj.bias, 10)
    latent = 10 + 0.05 * torch.randn(2, 8, 16, 16)
    expected, vectors = codebook(latent)
    assert expected.unique().numel() > 100
    with torch.autocast("cpu", torch.bfloat16):
        code, quantized = codebook(latent)
    assert torch.equal(code, expected) and torch.equal(quantized, vectors)


@pytest.mark.parametrize("scale", [2.35, 0.5])  # the first leaves two likely codes, whose noise may have any sign
def test_draws_follow_the_softmax_of_distances(scale):
    torch.manual_seed(0)
    codes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    draws = choose_codes(torch.zeros(200_000, 2), codes, scale)
    frequency = torch.bincount(draws, minlength=3) / len(draws)
    expected = (-scale * torch.tensor([0.0, 1.0, 2.0]) / chi_std(2)).softmax(dim=0)
    torch.testing.assert_close(frequency, expected, rtol=0, atol=0.005)


def test_gradient_reaches_the_projection_only():
    module = ProjectedCodebook(num_codes=16, dim=4, basis_dim=8)
    latent = torch.randn(2, 4, 3, 3, requires_grad=True)
    code, quantized = module(latent)
    assert code.shape == (2, 3, 3)
    assert code.dtype == torch.int64
    torch.testing.assert_close(quantized[0, :, 1, 2], module.codes()[code[0, 1, 2]])
    quantized.square().sum().backward()
    assert latent.grad is None
    assert module.code_proj.weight.grad.abs().sum() > 0
    assert not module.basis.requires_grad
    assert "basis" in module.state_dict()


def test_draws_only_where_asked_for_and_scaled():
    torch.manual_seed(0)
    module = ProjectedCodebook(num_codes=64, dim=4, basis_dim=8, logit_scale=1.0)
    latent = torch.randn(2, 4, 8, 8)
    nearest = module(latent)[0]
    assert torch.equal(module(latent, sample=False)[0], nearest)
    assert not torch.equal(module(latent, sample=True)[0], nearest)
    module.logit_scale = 0.0
    assert torch.equal(module(latent, sample=True)[0], nearest)


def test_frozen_codes_are_computed_once_and_anew_after_loading():
    module = ProjectedCodebook(num_codes=16, dim=4, basis_dim=8)
    assert module.codes() is not module.codes()
    module.requires_grad_(False)
    first = module.codes()
    assert module.codes() is first
    assert "frozen_codes" not in module.state_dict()
    other = ProjectedCodebook(num_codes=16, dim=4, basis_dim=8)
    module.load_state_dict(other.state_dict())
    torch.testing.assert_close(module.codes(), other.codes())
    module.requires_grad_(True)
    with torch.no_grad():
        module.code_proj.weight.zero_()
    torch.testing.assert_close(module.codes(), module.code_proj.bias.expand(16, -1))


def test_learned_codebook():
    module = LearnedCodebook(num_codes=16, dim=4)
    assert module.codebook.abs().max() <= 1 / 16
    latent = torch.randn(2, 4, 3, 3)
    code, quantized = module(latent)
    quantized.sum().backward()
    assert module.codebook.grad.abs().sum() > 0
    distance = torch.cdist(latent.movedim(1, -1).flatten(0, 2), module.codebook)
    assert torch.equal(code.flatten(), distance.argmin(dim=1))


def test_wrong_width_is_named():
    with pytest.raises(ValueError, match=r"latent has shape \(1, 5, 2, 2\), wanted \(any, 4, any, any\)"):
        ProjectedCodebook(num_codes=16, dim=4)(torch.zeros(1, 5, 2, 2))


def test_match_tells_the_probability_of_the_nearest_code(monkeypatch):
    torch.manual_seed(0)
    latent, codes = torch.randn(50, 4), torch.randn(9, 4)
    expected = (-torch.cdist(latent.double(), codes.double()) / chi_std(4)).softmax(dim=1).max(dim=1)
    for size in (quantizer.CHUNK_ELEMENTS, 9 * 7):
        monkeypatch.setattr(quantizer, "CHUNK_ELEMENTS", size)
        code, probability = match_codes(latent, codes)
        assert torch.equal(code, expected.indices)
        torch.testing.assert_close(probability.double(), expected.values, rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [2.35, 0.5])
def test_matched_draws_follow_the_softmax_of_distances(scale):
    torch.manual_seed(0)
    codes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    code, probability = match_codes(torch.zeros(200_000, 2), codes, scale)
    frequency = torch.bincount(code, minlength=3) / len(code)
    expected = (-scale * torch.tensor([0.0, 1.0, 2.0]) / chi_std(2)).softmax(dim=0)
    torch.testing.assert_close(frequency, expected, rtol=0, atol=0.005)
    assert probability.min() > 1 / 3
    assert probability.max() <= 1
    assert probability.std() > 0.05  # noisy itself


def test_permuting_codes_permutes_indices_only():
    torch.manual_seed(0)
    module = GroupedCodebook([16, 8], dim=6, basis_dim=5)
    latent = torch.randn(2, 6, 4, 4)
    code, quantized = module(latent)
    order = torch.randperm(16)
    module.groups[0].basis.copy_(module.groups[0].basis[order].clone())
    permuted_code, permuted_quantized = module(latent)
    assert torch.equal(order[permuted_code[:, 0]], code[:, 0])
    assert torch.equal(permuted_code[:, 1], code[:, 1])
    torch.testing.assert_close(permuted_quantized, quantized)


def test_groups_are_codebooks_of_their_channels():
    torch.manual_seed(0)
    module = GroupedCodebook([16, 8, 4], dim=6, basis_dim=5)
    assert (module.num_codes, module.dim, module.group_sizes) == (28, 6, [16, 8, 4])
    latent = torch.randn(2, 6, 3, 5, requires_grad=True)
    code, quantized = module(latent)
    for index, group in enumerate(module.groups):
        own_code, own_quantized = group(latent[:, 2 * index : 2 * index + 2])
        assert torch.equal(code[:, index], own_code)
        assert torch.equal(quantized[:, 2 * index : 2 * index + 2], own_quantized)
    quantized[:, :2].square().sum().backward()
    assert latent.grad is None
    assert module.groups[0].code_proj.weight.grad.abs().sum() > 0
    assert not any(group.code_proj.weight.grad.abs().sum() for group in module.groups[1:])


def test_groups_have_one_logit_scale_that_a_schedule_may_set():
    torch.manual_seed(0)
    module = GroupedCodebook([64, 64], dim=4, basis_dim=8, logit_scale=1.0)
    latent = torch.randn(2, 4, 8, 8)
    nearest = module(latent)[0]
    drawn = module(latent, sample=True)[0]
    assert ((drawn != nearest).flatten(2).any(dim=2)).all()  # in each group
    module.logit_scale = 0.0
    assert [group.logit_scale for group in module.groups] == [0.0, 0.0]
    assert torch.equal(module(latent, sample=True)[0], nearest)
    assert isinstance(module.logit_scale, float)


def test_groups_must_divide_the_width():
    with pytest.raises(ConfigError, match="quantizer: dim 7 does not divide into 2 groups of equal width"):
        build(dict(type="GroupedCodebook", num_codes=[4, 4], dim=7), "quantizer")
    with pytest.raises(ValueError, match="dim 4 does not divide into 0 groups"):
        GroupedCodebook([], dim=4)
