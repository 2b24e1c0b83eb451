import pytest
import torch
from torch.nn import functional

from object_centric_bench.learn import cross_entropy
from object_centric_bench.learn.cross_entropy import mean_cross_entropy


@pytest.mark.parametrize("chunk", [None, 5 * 11])
def test_loss_and_gradient_equal_pytorchs(chunk, monkeypatch):
    if chunk:
        monkeypatch.setattr(cross_entropy, "CPU_CHUNK_ELEMENTS", chunk)  # 13 rows in chunks of 5, 5 and 3
    torch.manual_seed(0)
    logits = (10 * torch.randn(13, 11, dtype=torch.float64)).requires_grad_()
    code = torch.randint(11, (13,))
    expected, found = functional.cross_entropy(logits, code), mean_cross_entropy(logits, code)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    mine, theirs = (torch.autograd.grad(3 * loss, logits)[0] for loss in (found, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype, rounding", [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_is_rounded_in_the_gradient_only(dtype, rounding):
    torch.manual_seed(0)
    logits = torch.randn(60, 50).to(dtype).requires_grad_()
    code = torch.randint(50, (60,))
    found = mean_cross_entropy(logits, code)
    assert found.dtype == torch.float32
    exact = logits.detach().double().requires_grad_()
    expected = functional.cross_entropy(exact, code)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(2.0**14 * found, logits)  # as a gradient scaler would
    assert gradient.dtype == dtype
    (want,) = torch.autograd.grad(2.0**14 * expected, exact)
    torch.testing.assert_close(gradient.double(), want, rtol=2 * rounding, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_nothing_larger_than_the_logits_is_kept(dtype):
    logits, code = torch.randn(6, 9, dtype=dtype).requires_grad_(), torch.zeros(6, dtype=torch.int64)
    kept = []

    def keep(tensor):
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mean_cross_entropy(logits, code)
    assert sum(kept) <= 6 * 9 * dtype.itemsize


def test_a_class_that_is_out_of_reach_costs_what_it_should():
    logits = torch.tensor([[0.0, -200.0, 300.0]], requires_grad=True)  # its probability is 0 in float32
    loss = mean_cross_entropy(logits, torch.tensor([1]))
    loss.backward()
    assert loss.item() == 500.0
    assert logits.grad.tolist() == [[0.0, -1.0, 1.0]]


def test_without_gradient_nothing_is_kept_and_the_loss_is_the_same():
    logits, code = torch.randn(6, 9), torch.randint(9, (6,))
    found = mean_cross_entropy(logits, code)
    assert not found.requires_grad
    torch.testing.assert_close(found, functional.cross_entropy(logits, code))
