import pytest
import torch
from torch import nn

from object_centric_bench.model.mlp import MLP, start_by_xavier, zero_biases
from object_centric_bench.model.position import LearnedPosition


def test_mlp_is_norm_linear_activation_linear():
    module = MLP([4, 8, 3], norm=True)
    tokens = torch.randn(2, 5, 4)
    hidden = nn.functional.gelu(module.layers[0](module.norm(tokens)))
    assert torch.equal(module(tokens), module.layers[1](hidden))
    linear = MLP([4, 8, 3], activation=None, dropout=0.5).eval()
    assert torch.equal(linear(tokens), linear.layers[1](linear.layers[0](tokens)))
    linear.train()
    assert not torch.equal(linear(tokens), linear(tokens))


def test_mlp_drops_what_the_activation_gives():
    module = MLP([1000, 1000, 1000], dropout=0.5)
    nn.init.eye_(module.layers[1].weight)
    nn.init.zeros_(module.layers[1].bias)
    tokens = torch.randn(1, 1000)
    dropped, kept = module(tokens), 2 * module.eval()(tokens)
    assert 400 < (dropped == 0).sum() < 600
    torch.testing.assert_close(dropped[dropped != 0], kept[dropped != 0])


def test_mlp_refuses_bad_arguments():
    with pytest.raises(ValueError, match="at least an input and an output"):
        MLP([4])
    with pytest.raises(ValueError, match="got 'tanh'"):
        MLP([4, 3], activation="tanh")


def test_zero_biases_leaves_norms_and_weights():
    module = nn.Sequential(nn.Linear(3, 3), nn.GRUCell(3, 3), nn.Conv2d(3, 3, 1), nn.LayerNorm(3))
    nn.init.ones_(module[3].bias)
    zero_biases(module)
    assert not any(value.any() for value in (module[0].bias, module[1].bias_ih, module[1].bias_hh, module[2].bias))
    assert module[3].bias.all()
    assert module[0].weight.all()


def test_start_by_xavier():
    """By hand: sqrt(6 / (in + out)), before a ReLU sqrt(6 / in); a GRU's three gates are stacked; states turn only."""
    torch.manual_seed(0)
    relu, gelu = MLP([96, 64, 32], norm=True, activation="relu"), MLP([96, 64, 32])
    module = nn.ModuleList([nn.Linear(96, 64), nn.GRUCell(96, 48), relu, gelu])
    linear, gru = module[0], module[1]
    before = relu.norm.weight.clone()
    start_by_xavier(module)
    bounds = {linear.weight: 6 / 160, gru.weight_ih: 6 / (96 + 3 * 48), relu.layers[0].weight: 6 / 96}
    bounds |= {relu.layers[1].weight: 6 / 96, gelu.layers[0].weight: 6 / 160, gelu.layers[1].weight: 6 / 96}
    for weight, squared in bounds.items():
        assert 0.98 * squared**0.5 < weight.abs().max() <= squared**0.5
    torch.testing.assert_close(gru.weight_hh.T @ gru.weight_hh, torch.eye(48))
    biases = [linear.bias, gru.bias_ih, gru.bias_hh, *(layer.bias for each in (relu, gelu) for layer in each.layers)]
    assert not any(bias.any() for bias in biases)
    assert torch.equal(relu.norm.weight, before)


def test_learned_position():
    module = LearnedPosition(length=1000, dim=16)
    assert module.embedding.std().item() == pytest.approx(0.88, abs=0.01)
    tokens = torch.zeros(2, 7, 16)
    assert torch.equal(module(tokens)[1], module.embedding[0, :7])
    with pytest.raises(ValueError, match="do not fit positions"):
        module(torch.zeros(1, 1001, 16))
