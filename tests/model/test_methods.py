"""What all methods have in common: contracts of outputs, gradients, frozen parts, precision, sizes that must fit."""

import pytest
import torch
from torch.nn import functional

from object_centric_bench.model.broadcast import BroadcastMLP
from object_centric_bench.model.dinosaur import DINOSAUR
from object_centric_bench.model.initializer import PerSlotGaussian
from object_centric_bench.model.mlp import MLP
from object_centric_bench.model.slot_attention import SlotAttention
from object_centric_bench.registry import ConfigError, build

from .sizes import DINOV2, build_method, tiny_backbone

METHODS = ["VQDINO", "VVOTfd", "VVOMlp", "DINOSAUR"]
KEYS = {
    "VQDINO": {"feature", "latent", "code", "quantized", "mixed", "reconstruction"},
    "VVOTfd": {"feature", "code", "quantized", "slots", "attention", "logits"},
    "VVOMlp": {
        *("feature", "code", "quantized", "slots", "attention", "mask"),
        *("quantized_reconstruction", "feature_reconstruction"),
    },
    "DINOSAUR": {"feature", "slots", "attention", "mask", "reconstruction"},
}


def make(method):
    torch.manual_seed(0)
    return build_method(method, tiny_backbone(), basis_dim=64, logit_scale=2.35)


def loss_of(output):
    """A loss that every trained part contributes to."""
    if "logits" in output:
        return functional.cross_entropy(output["logits"], output["code"])
    if "latent" in output:
        align = functional.mse_loss(output["quantized"], output["latent"].detach())
        return align + output["reconstruction"].square().mean()
    if "quantized_reconstruction" in output:
        loss = functional.mse_loss(output["quantized_reconstruction"], output["quantized"])
        return loss + functional.mse_loss(output["feature_reconstruction"], output["feature"])
    return functional.mse_loss(output["reconstruction"], output["feature"])


@pytest.fixture
def image():
    torch.manual_seed(1)
    return torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize("method", METHODS)
def test_outputs(method, image):
    output = make(method)(image=image)
    assert output.keys() == KEYS[method]
    for key in {"attention", "mask"} & output.keys():
        assert output[key].shape == (2, 4, 4, 4)
        torch.testing.assert_close(output[key].sum(dim=1), torch.ones(2, 4, 4))
    if "code" in output:
        assert output["code"].dtype == torch.int64
        assert output["code"].shape == (2, 4, 4)


@pytest.mark.parametrize("method", METHODS)
def test_every_trained_parameter_gets_a_gradient_and_no_other(method, image):
    model = make(method).train()
    loss_of(model(image=image)).backward()
    frozen = ("backbone.",) if method == "VQDINO" else ("backbone.", "tokenizer.")
    for name, parameter in model.named_parameters():
        if name.startswith(frozen):
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
        else:
            assert parameter.requires_grad, name
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0 or name == "slot_attention.norm_slots.bias", name


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_is_deterministic_and_training_is_not(method, image):
    model = make(method).train()
    first, second = model(image=image), model(image=image)
    key = "quantized" if method == "VQDINO" else "slots"
    assert not torch.equal(first[key], second[key])
    assert not model.backbone.training
    model.eval()
    first, second = model(image=image), model(image=image)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("method", ["VVOTfd", "VVOMlp"])
def test_frozen_tokenizer_draws_codes_in_training_only_if_asked_to(method, image):
    model = make(method)
    model.eval()
    nearest = model(image=image)["code"]
    model.train()
    assert not model.tokenizer.training
    assert not torch.equal(model(image=image)["code"], nearest)
    model.sample_codes = False
    assert torch.equal(model(image=image)["code"], nearest)


@pytest.mark.parametrize("method", METHODS)
def test_a_cached_feature_gives_the_same(method, image):
    model = make(method).eval()
    expected = model(image=image)
    output = model(feature=model.backbone(image))
    assert all(torch.equal(output[key], expected[key]) for key in expected)
    with pytest.raises(ValueError, match="neither image nor feature"):
        model()


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_trains(method, image):
    model = make(method).train()
    if "slot_attention" in dict(model.named_children()):
        with torch.no_grad():
            model.slot_attention.to_query.weight.mul_(20)  # far from equal shares, which half precision holds exactly
    with torch.autocast("cpu", torch.bfloat16):
        output = model(image=image)
        loss = loss_of(output)
    loss.backward()
    assert torch.isfinite(loss)
    for key in {"attention", "mask"} & output.keys():
        torch.testing.assert_close(output[key].sum(dim=1).float(), torch.ones(2, 4, 4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_state_survives_saving(method, image):
    model, other = make(method).eval(), build_method(method, tiny_backbone(), basis_dim=64).eval()
    if "tokenizer" in dict(model.named_children()):
        other(image=image)  # fills the cache of codes
    other.load_state_dict(model.state_dict())
    expected, output = model(image=image), other(image=image)
    assert all(torch.equal(output[key], expected[key]) for key in expected)


def test_projection_starts_without_biases():
    assert not any(layer.bias.any() for layer in make("DINOSAUR").projection.layers)


def test_all_parts_that_do_not_fit_are_named_at_once():
    with pytest.raises(ValueError) as caught:
        DINOSAUR(
            tiny_backbone(),
            MLP([40, 32]),
            PerSlotGaussian(num_slots=3, dim=16),
            SlotAttention(dim=32),
            BroadcastMLP(grid=[8, 8], dims=[32, 48]),
        )
    assert str(caught.value) == (
        "backbone's dim is 48 but projection's input width is 40; initializer's dim is 16 but slot_attention's dim is "
        "32; backbone's grid is [4, 4] but decoder's grid is [8, 8]"
    )


def config():
    backbone = {
        "type": "Backbone",
        "provider": "timm",
        "name": DINOV2,
        "resolution": [56, 56],
        "pretrained": False,
        "options": {"embed_dim": 48, "depth": 1, "num_heads": 3},
    }
    return {
        "type": "DINOSAUR",
        "backbone": backbone,
        "projection": {"type": "MLP", "dims": [48, 96, 32], "norm": True},
        "initializer": {"type": "PerSlotGaussian", "num_slots": 4, "dim": 32},
        "slot_attention": {"type": "SlotAttention", "dim": 32},
        "decoder": {"type": "BroadcastMLP", "grid": [4, 4], "dims": [32, 64, 48]},
    }


def test_builds_from_a_config(image):
    assert build(config(), "model")(image=image)["mask"].shape == (2, 4, 4, 4)


def test_a_grid_that_does_not_fit_names_its_place_in_the_config():
    node = config()
    node["decoder"]["grid"] = [5, 5]
    with pytest.raises(ConfigError, match=r"^model: backbone's grid is \[4, 4\] but decoder's grid is \[5, 5\]$"):
        build(node, "model")
