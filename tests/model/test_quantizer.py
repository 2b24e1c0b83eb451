import pytest
import torch

from object_centric_bench.model import quantizer
from object_centric_bench.model.quantizer import LearnedCodebook, ProjectedCodebook, chi_std, choose_codes


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


def test_nearest_code_in_float32_under_autocast():
    latent = torch.full((1, 4), 10.0)
    codes = torch.stack([latent[0] + 0.02, latent[0] + 0.01])  # equal in bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert choose_codes(latent, codes).item() == 1


def test_draws_follow_the_softmax_of_distances():
    torch.manual_seed(0)
    codes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    scale = 2.35
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
