import math

import numpy as np
import pytest
import torch

from object_centric_bench.model.slot_attention import SlotAttention


def wave(*shape):
    """cos(0), cos(1), cos(4), cos(9), ...: numbers without a random generator."""
    count = math.prod(shape)
    return torch.cos(torch.arange(count, dtype=torch.float64) ** 2).view(shape)


def waved(**arguments):
    module = SlotAttention(dim=4, input_dim=6, hidden_dim=8, **arguments).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(wave(*parameter.shape))
    return module


def by_loops(module, tokens, slots, iterations):
    """Algorithm 1 in plain NumPy float64, one number at a time where that matters."""
    weights = {name: value.detach().numpy() for name, value in module.named_parameters()}

    def norm(vector, name):
        centred = vector - vector.mean()
        unit = centred / math.sqrt((centred**2).mean() + 1e-5)
        return unit * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    tokens = [norm(token, "norm_tokens") for token in tokens]
    keys = [weights["to_key.weight"] @ token for token in tokens]
    values = [weights["to_value.weight"] @ token for token in tokens]
    slots = [slot.copy() for slot in slots]
    for _ in range(iterations):
        queries = [weights["to_query.weight"] @ norm(slot, "norm_slots") for slot in slots]
        attention = np.zeros((len(slots), len(tokens)))
        for n, key in enumerate(keys):
            exponentials = [math.exp(query @ key / math.sqrt(len(key))) for query in queries]
            for s, value in enumerate(exponentials):
                attention[s, n] = value / sum(exponentials)
        for s, slot in enumerate(slots):
            total = sum(attention[s]) + 1e-5
            update = sum(attention[s, n] / total * values[n] for n in range(len(tokens)))
            of_update = weights["gru.weight_ih"] @ update + weights["gru.bias_ih"]
            of_slot = weights["gru.weight_hh"] @ slot + weights["gru.bias_hh"]
            (r1, z1, n1), (r2, z2, n2) = np.split(of_update, 3), np.split(of_slot, 3)
            reset, keep = sigmoid(r1 + r2), sigmoid(z1 + z2)
            slot = (1 - keep) * np.tanh(n1 + reset * n2) + keep * slot
            hidden = weights["mlp.layers.0.weight"] @ norm(slot, "mlp.norm") + weights["mlp.layers.0.bias"]
            hidden = np.array([0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in hidden])
            slots[s] = slot + weights["mlp.layers.1.weight"] @ hidden + weights["mlp.layers.1.bias"]
    return np.array(slots), attention


@pytest.mark.parametrize("bilevel", [True, False])
@pytest.mark.parametrize("iterations", [1, 3])
def test_equals_algorithm_1(iterations, bilevel):
    module = waved(num_iterations=iterations, bilevel=bilevel)
    tokens, slots = wave(1, 5, 6), wave(1, 2, 4)
    refined, attention = module(tokens, slots)
    expected, expected_attention = by_loops(module, tokens[0].numpy(), slots[0].numpy(), iterations)
    torch.testing.assert_close(refined[0].detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(attention[0].detach().numpy(), expected_attention, rtol=1e-10, atol=1e-12)


def test_number_of_iterations_can_be_chosen_per_call():
    module = waved(num_iterations=3)
    tokens, slots = wave(1, 5, 6), wave(1, 2, 4)
    once = waved(num_iterations=1)(tokens, slots)[0]
    assert torch.equal(module(tokens, slots, num_iterations=1)[0], once)
    with pytest.raises(ValueError, match="num_iterations"):
        module(tokens, slots, num_iterations=0)


def test_permuting_slots_permutes_outputs():
    module = SlotAttention(dim=8).double().eval()
    tokens, slots = torch.randn(2, 9, 8).double(), torch.randn(2, 4, 8).double()
    order = torch.tensor([2, 0, 3, 1])
    refined, attention = module(tokens, slots)
    permuted, permuted_attention = module(tokens, slots[:, order])
    torch.testing.assert_close(permuted, refined[:, order])
    torch.testing.assert_close(permuted_attention, attention[:, order])
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(2, 9).double())


def test_invalid_slots_get_no_attention_and_do_not_compete():
    module = SlotAttention(dim=8).double().eval()
    tokens, slots = torch.randn(1, 9, 8).double(), torch.randn(1, 3, 8).double()
    valid = torch.tensor([[True, False, True]])
    refined, attention = module(tokens, slots, slot_valid=valid)
    alone, _ = module(tokens, slots[:, [0, 2]])
    assert attention[:, 1].abs().max() == 0
    torch.testing.assert_close(refined[:, [0, 2]], alone)


def test_bilevel_gradient_is_that_of_the_last_iteration():
    torch.manual_seed(0)
    module = SlotAttention(dim=8, bilevel=True).double().eval()
    tokens = torch.randn(1, 9, 8).double()
    slots = torch.randn(1, 3, 8).double().requires_grad_()
    refined, _ = module(tokens, slots)
    (gradient,) = torch.autograd.grad(refined.square().sum(), slots)
    weights = [parameter.grad for parameter in module.parameters()]
    assert weights == [None] * len(weights)
    with torch.no_grad():
        before = module(tokens, slots, num_iterations=2)[0]
    before.requires_grad_()
    last = module(tokens, before, num_iterations=1)[0]
    assert torch.equal(last, refined)  # straight through changes no value at all
    (expected,) = torch.autograd.grad(last.square().sum(), before)
    torch.testing.assert_close(gradient, expected)
    module.bilevel = False
    (full,) = torch.autograd.grad(module(tokens, slots)[0].square().sum(), slots)
    assert not torch.allclose(full, gradient)


@pytest.mark.parametrize("bilevel", [True, False])
def test_iterations_whose_gradient_is_dropped_record_none(bilevel, monkeypatch):
    module = SlotAttention(dim=8, num_iterations=3, bilevel=bilevel)
    recorded, iterate = [], module.iterate

    def spy(slots, *rest):
        recorded.append(torch.is_grad_enabled())
        return iterate(slots, *rest)

    monkeypatch.setattr(module, "iterate", spy)
    module(torch.randn(1, 9, 8), torch.randn(1, 3, 8))
    assert recorded == [not bilevel, not bilevel, True]


def test_biases_start_at_zero():
    module = SlotAttention(dim=8)
    for part in (module.gru, *module.mlp.layers):
        assert all(not value.any() for name, value in part.named_parameters() if "bias" in name)


def test_wrong_shapes_are_named():
    module = SlotAttention(dim=8, input_dim=6)
    with pytest.raises(ValueError, match=r"tokens has shape \(1, 5, 8\), wanted \(any, any, 6\)"):
        module(torch.zeros(1, 5, 8), torch.zeros(1, 2, 8))
    with pytest.raises(ValueError, match="slots has shape"):
        module(torch.zeros(1, 5, 6), torch.zeros(2, 2, 8))
    with pytest.raises(ValueError, match="num_iterations"):
        SlotAttention(dim=8, num_iterations=0)
