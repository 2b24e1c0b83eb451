"""How weights start: the reference's policy, which training depends on as much as on the architecture."""

import math

import pytest
import torch
from torch import nn

from object_centric_bench.model.autoregressive import Attention, AutoregressiveTransformer
from object_centric_bench.model.initializer import BoxMLP, SharedGaussian
from object_centric_bench.model.position import LearnedPosition
from object_centric_bench.model.quantizer import LearnedCodebook, ProjectedCodebook
from object_centric_bench.model.temporal import SlotPredictor

from .sizes import METHODS, build_method, tiny_backbone

WITH_SLOTS = [name for name in METHODS if name not in ("VQVAE", "VQDINO")]


@pytest.mark.parametrize("method", WITH_SLOTS)
def test_parts_around_the_slots_start_without_biases_and_no_other_part(method):
    """Norms aside, whose biases are zero anyway; without the policy a linear layer's are never zero."""
    model = build_method(method, tiny_backbone())
    biases = {
        f"{name}.{key}": value
        for part in ("projection", "slot_attention", "predictor", "initializer", "decoder", "tokenizer")
        for name, module in getattr(model, part, nn.Identity()).named_modules(prefix=part)
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.GRUCell))
        for key, value in module.named_parameters(recurse=False)
        if key.startswith("bias")
    }
    zero = {name for name, value in biases.items() if not value.any()}
    assert zero == {name for name in biases if name.startswith(("projection.", "slot_attention.", "predictor."))}
    assert {"projection.layers.0.bias", "slot_attention.gru.bias_ih", "slot_attention.mlp.layers.1.bias"} <= zero
    if METHODS[method].video:
        assert biases["initializer.mlp.layers.0.bias"].any()


def test_slot_predictor_has_no_biases_at_all():
    assert not [name for name, _ in SlotPredictor(8).named_parameters() if "bias" in name]


def spread(tensor):
    """Return the largest magnitude and the standard deviation."""
    return tensor.abs().max().item(), tensor.std().item()


def test_attention_starts_by_xaviers_rule_over_query_key_and_value_stacked():
    torch.manual_seed(0)
    dim = 96
    bound = math.sqrt(6 / (dim + 3 * dim))
    largest, deviation = spread(Attention(dim, 4, 0.0).to_qkv.weight)
    assert 0.99 * bound < largest <= bound  # PyTorch's own rule gives 1 / sqrt(dim), a fifth less
    assert deviation == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_autoregressive_decoder_starts_with_a_small_start_vector_and_layers_of_their_own():
    torch.manual_seed(0)
    dim = 4096
    decoder = AutoregressiveTransformer([1, 2], dim, num_codes=2, num_layers=1, hidden_dim=1, num_heads=1)
    assert decoder.start.std().item() == pytest.approx(dim**-0.5, rel=0.05)
    assert abs(decoder.start.mean().item()) < 4 * dim**-0.5 / math.sqrt(dim)
    first, second = AutoregressiveTransformer([2, 2], 8, num_codes=4, num_layers=2).layers
    assert not torch.equal(first.mlp_in.weight, second.mlp_in.weight)


def test_positions_start_from_a_cut_normal_distribution():
    torch.manual_seed(0)
    largest, deviation = spread(LearnedPosition(256, 64).embedding)
    assert 1.9 < largest <= 2
    assert deviation == pytest.approx(0.88, abs=0.01)


def test_basis_is_standard_normal_and_makes_codes_of_the_references_spread():
    torch.manual_seed(0)
    codebook = ProjectedCodebook(num_codes=512, dim=64, basis_dim=1024)
    assert codebook.basis.mean().abs() < 0.01
    assert codebook.basis.std().item() == pytest.approx(1, abs=0.01)
    assert codebook.codes().std().item() == pytest.approx(0.58, abs=0.01)
    assert codebook.code_proj.bias.any()


def test_learned_codes_start_close_to_the_origin():
    largest, deviation = spread(LearnedCodebook(num_codes=128, dim=64).codebook)
    assert 0.99 / 128 < largest <= 1 / 128
    assert deviation == pytest.approx(1 / 128 / math.sqrt(3), rel=0.03)


def test_initializers_start_as_in_the_reference():
    torch.manual_seed(0)
    shared = SharedGaussian(num_slots=3, dim=768)
    for tensor in (shared.mean, shared.log_std):
        assert 0.97 * math.sqrt(3 / 768) < tensor.abs().max() <= math.sqrt(3 / 768)
    largest, _ = spread(BoxMLP(64).mlp.layers[0].weight)  # PyTorch's own rule for 4 inputs
    assert 0.45 < largest <= 0.5


@pytest.mark.parametrize("method", METHODS)
def test_norms_add_what_the_reference_adds_to_the_variance(method):
    """Where tokens vary as much as numbers drawn from N(0, 1), a tenth of it changes nothing that parity could see."""
    model = build_method(method, tiny_backbone())
    epsilons = {
        name: part.eps
        for name, part in model.named_modules()
        if isinstance(part, (nn.LayerNorm, nn.GroupNorm)) and not name.startswith("decoder.unet.")
    }
    assert epsilons
    for name, epsilon in epsilons.items():
        assert epsilon == (1e-6 if name.startswith("backbone.") else 1e-5), name
