import pytest
import torch
from torch.nn import functional

from object_centric_bench.model.attention import attend, prefers_products


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("causal", [False, True])
def test_products_equal_the_kernel(causal, scale):
    """In bf16 on a CPU two products stand in for PyTorch's kernel; both against float64."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 9, 8).bfloat16().requires_grad_() for _ in range(3))
    assert prefers_products(query)
    exact = [part.detach().double().requires_grad_() for part in (query, key, value)]
    assert not prefers_products(exact[0])
    expected = functional.scaled_dot_product_attention(*exact, is_causal=causal, scale=scale)
    found = attend(query, key, value, scale=scale, causal=causal)
    torch.testing.assert_close(found.double(), expected, rtol=0.03, atol=0.03)
    weight = torch.randn(found.shape, dtype=torch.float64)
    gradients = torch.autograd.grad((found.double() * weight).sum(), (query, key, value))
    wanted = torch.autograd.grad((expected * weight).sum(), exact)
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient.double(), want, rtol=0.06, atol=0.06)


def test_causal_attention_sees_nothing_later():
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 6, 4).bfloat16() for _ in range(3))
    before = attend(query, key, value, causal=True)
    key[:, :, 4:], value[:, :, 4:] = 9.0, 9.0
    after = attend(query, key, value, causal=True)
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.equal(before[:, :, 4:], after[:, :, 4:])


def test_weights_are_dropped():
    torch.manual_seed(0)
    query, key = torch.zeros(1, 1, 400, 4).bfloat16(), torch.zeros(1, 1, 50, 4).bfloat16()
    mean = attend(query, key, torch.ones(1, 1, 50, 4).bfloat16(), dropout=0.5).float().mean()
    assert mean == pytest.approx(1.0, abs=0.05)
    assert not attend(query, key, torch.ones(1, 1, 50, 4).bfloat16(), dropout=1.0).any()
