"""Every tensor of a published checkpoint has exactly one place in our models."""

import hashlib
import json

import pytest
import torch

from object_centric_bench.model import published
from object_centric_bench.model.published_names import matches
from object_centric_bench.model.weights import WeightsError
from tests.conftest import GOLDEN, require

from .full_size import full_size, published_state
from .sizes import build_method, tiny_backbone

KEYS = sorted(path for folder in ("vvo", "msf") for path in (GOLDEN / "keys" / folder).glob("*.json"))
STAGES = {  # a second stage and the first whose tokenizer it takes, of every kind
    "vvo/slate_r_vqvae-coco": "vvo/vqvae-coco-c256",
    "vvo/steve_c_vqvae-movi_d": "vvo/vqvae-movi_d-c256",
    "vvo/slotdiffusion_r_vqvae-coco": "vvo/vqvae-coco-c4",
    "vvo/vqdino_tfd_r-coco": "vvo/vqdino-coco-c256",
    "vvo/vqdino_dfz_r-coco": "vvo/vqdino-coco-c4",
    "msf/slate_r_vqvae-coco-gdr": "msf/vqvae-coco-c256-gdr",
    "msf/slotdiffusion_r_vqvae-coco-msf": "msf/vqvae-coco-c4-msf",
}


@pytest.mark.parity
@pytest.mark.parametrize("path", KEYS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_published_tensor_has_its_place(golden, path):
    name = f"{path.parent.name}/{path.stem}"
    model, state = full_size(path.stem), published_state(golden, name)
    translated = published.translate(state, model)
    assert len(translated) == len(state)
    assert translated.keys() == model.state_dict().keys()
    assert {our: tensor.shape for our, tensor in translated.items()} == {
        our: tensor.shape for our, tensor in model.state_dict().items()
    }
    assert published.method_of(state) == type(model).__name__
    assert published.names(model).items() >= published.layout_of(state).names.items()
    assert published.translate_alone(state).keys() == translated.keys()

    summary = json.loads((golden / "keys" / "summary.json").read_text())[path.parent.name][path.stem]
    trained = {our: parameter.numel() for our, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(trained.values()) == summary["trainable_elements"]
    table = published.layout_of(state).names
    theirs = sorted(their for their in state if published.rename(their, table) in trained)
    assert len(theirs) == len(trained) == summary["trainable_parameters"]
    assert hashlib.sha256("\n".join(theirs).encode()).hexdigest() == summary["trainable_names_sha256"]


@pytest.mark.parity
@pytest.mark.parametrize(
    "name, override",
    [
        ("slate_r_vqvae-coco", ["model.slot_attention.hidden_dim=512"]),
        ("dinosaur_r-coco", ["num_slots=8"]),
        ("vqdino_tfd_r-coco", ["model.tokenizer.quantizer.num_codes=2048", "model.decoder.num_codes=2048"]),
        ("vqdino-coco-c4", ["model.tokenizer.decoder.hidden_dim=128"]),
    ],
)
def test_a_wrong_size_in_a_config_file_would_be_found(golden, name, override):
    require(golden / "keys")
    state = published_state(golden, f"vvo/{name}")
    assert published.translate(state, full_size(name)).keys() == full_size(name).state_dict().keys()
    with pytest.raises(WeightsError, match=r"shape: m\."):
        published.translate(state, full_size(name, *override))


@pytest.mark.parity
def test_all_published_configs_are_there(golden):
    require(golden / "keys")
    summary = json.loads((golden / "keys" / "summary.json").read_text())
    assert {f"{folder}/{name}" for folder, names in summary.items() for name in names} == {
        f"{path.parent.name}/{path.stem}" for path in KEYS
    }


@pytest.mark.parity
@pytest.mark.parametrize("second", STAGES)
def test_stage_two_takes_its_parts_from_a_published_stage_one(golden, second):
    require(golden / "keys")
    model, state = full_size(second.split("/")[1]), published_state(golden, STAGES[second])
    parts = [f"tokenizer.{name}" for name, child in model.tokenizer.named_children()]
    translated = published.translate(state, model, parts)
    assert translated.keys() == {name for name in model.state_dict() if name.startswith("tokenizer.")}


@pytest.mark.parity
def test_a_tokenizer_of_another_kind_or_width_is_refused(golden):
    require(golden / "keys")
    model, parts = full_size("slate_r_vqvae-coco-gdr"), ["tokenizer.encoder", "tokenizer.quantizer"]
    with pytest.raises(WeightsError) as caught:
        published.translate(published_state(golden, "vvo/vqvae-coco-c256"), model, parts)
    text = str(caught.value)
    assert "this is a checkpoint of VQVAE with learned codes, the model is SLATE with grouped codes; " in text
    assert "missing: tokenizer.quantizer.groups.0.basis" in text
    another_width = r"^\d+ tensors do not fit:\n(.*\n)*shape: m\.quant\.0\.project\.weight is \(2, 512\), "
    with pytest.raises(WeightsError, match=another_width):
        published.translate(published_state(golden, "msf/vqvae-coco-c4-gdr"), model, parts)


def theirs(model):
    """Return a model's state under the authors' names, the older ones where there are two."""
    state = {}
    for their, our in published.names(model).items():
        for key, value in model.state_dict().items():
            if "_pe" not in their and matches(our, key):
                state[their[:-1] + key[len(our) - 1 :] if their.endswith("*") else their] = value
    return state


@pytest.fixture(scope="module")
def small():
    """A tiny DINOSAUR and its state under the authors' names."""
    model = build_method("DINOSAUR", tiny_backbone())
    return model, theirs(model)


def test_small_state_translates_from_both_generations_of_names(small):
    model, state = small
    model.load_state_dict(published.translate(state, model))
    renamed = {key.replace("posit_embed.pe", "posit_embed._pe"): value for key, value in state.items()}
    assert renamed.keys() != state.keys()
    assert published.translate(renamed, model).keys() == model.state_dict().keys()
    with pytest.raises(WeightsError, match=r"twice: decoder\.position\.embedding"):
        published.translate(state | renamed, model)


def test_order_does_not_count(small):
    model, state = small
    backwards = dict(reversed(state.items()))
    translated = published.translate(backwards, model)
    assert all(torch.equal(translated[key], value) for key, value in model.state_dict().items())


def test_all_faults_in_one_message(small):
    model, state = small
    state = dict(state)
    state["m.initializ.mean"] = torch.zeros(1, 5, 32)
    state["m.decode.bos"] = torch.zeros(1)
    del state["m.aggregat.proj_q.weight"]
    with pytest.raises(WeightsError) as caught:
        published.translate(state, model)
    text = str(caught.value)
    assert "shape: m.initializ.mean is (1, 5, 32), initializer.mean is (1, 4, 32)" in text
    assert "unexpected: m.decode.bos" in text
    assert "missing: slot_attention.to_query.weight" in text


def test_refuses_another_methods_checkpoint(small):
    _, state = small
    other = build_method("VVOTfd", tiny_backbone())
    with pytest.raises(WeightsError, match="checkpoint of DINOSAUR, the model is VVOTfd; "):
        published.translate(state, other)


def test_an_unknown_part_is_refused(small):
    model, state = small
    with pytest.raises(WeightsError, match="the model has no part slot_atention"):
        published.translate(state, model, ["slot_atention"])


def test_a_model_without_published_checkpoints_has_no_table():
    model = build_method("DINOSAUR", tiny_backbone())
    model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(WeightsError, match=r"no published checkpoints are known for DINOSAUR with extra\.weight"):
        published.names(model)


def test_recognises_published_names(small):
    model, state = small
    assert published.is_published(state)
    assert not published.is_published(model.state_dict())
    assert not published.is_published({})
