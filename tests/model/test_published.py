"""Every tensor of a published checkpoint has exactly one place in our models."""

import json

import pytest
import torch

from object_centric_bench.model import published
from tests.conftest import require

from .sizes import build_method, tiny_backbone

FULL_SIZE = {  # of the reference's configs
    "num_codes": 4096,
    "code_dim": 256,
    "slot_dim": 256,
    "decoder_dims": (2048, 2048, 2048),
    "num_layers": 4,
    "taesd_width": 64,
    "upscale_dim": 256,
}
SLOTS = {"clevrtex": 11, "coco": 7, "voc": 6}
METHODS = {"vqdino": "VQDINO", "vqdino_tfd_r": "VVOTfd", "vqdino_mlp_r": "VVOMlp", "dinosaur_r": "DINOSAUR"}


def full_size(name):
    """Build the model of a published config."""
    method, dataset, *rest = name.split("-")
    resolution = 336 if "r384" in rest else 224
    backbone = tiny_backbone(384, [resolution, resolution], depth=12, num_heads=6)
    sizes = {**FULL_SIZE, "num_slots": SLOTS[dataset]}
    if "c4" in rest:
        sizes["code_dim"] = 4
    return build_method(METHODS[method], backbone, **sizes)


def keys(golden, name):
    table = json.loads((golden / "keys" / "vvo" / f"{name}.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, (shape, _) in table.items()}


NAMES = [
    *(f"vqdino-{dataset}-{code}" for dataset in SLOTS for code in ("c256", "c4")),
    *("vqdino-coco-c256-r384", "vqdino-coco-c4-r384"),
    *(f"{method}-{data}" for method in list(METHODS)[1:] for data in ("clevrtex", "coco", "coco-r384", "voc")),
]


@pytest.mark.parity
@pytest.mark.parametrize("name", NAMES)
def test_every_published_tensor_has_its_place(golden, name):
    require(golden / "keys")
    model, state = full_size(name), keys(golden, name)
    translated = published.translate(state, model)
    assert len(translated) == len(state)
    assert translated.keys() == model.state_dict().keys()
    assert published.method_of(state) == type(model).__name__


@pytest.mark.parity
def test_trainable_counts_are_the_published_ones(golden):
    require(golden / "keys")
    counts = {"dinosaur_r-coco": 11_388_801, "vqdino_tfd_r-coco": 6_926_336, "vqdino-coco-c256": 5_768_195}
    for name, count in counts.items():
        trainable = [parameter for parameter in full_size(name).parameters() if parameter.requires_grad]
        assert sum(parameter.numel() for parameter in trainable) == count, name


@pytest.fixture(scope="module")
def small():
    """A tiny DINOSAUR and its state under the authors' names."""
    model = build_method("DINOSAUR", tiny_backbone())
    table = {}
    for their, our in published.names(model).items():
        if "_pe" in their:
            continue
        for key, value in model.state_dict().items():
            start, wildcard, _ = our.partition("*")
            if key == our or (wildcard and key.startswith(start)):
                table[their.replace("*", key[len(start) :])] = value
    return model, table


def test_small_state_translates(small):
    model, state = small
    model.load_state_dict(published.translate(state, model))
    renamed = {key.replace("posit_embed.pe", "posit_embed._pe"): value for key, value in state.items()}
    assert published.translate(renamed, model).keys() == model.state_dict().keys()


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
    with pytest.raises(ValueError) as caught:
        published.translate(state, model)
    text = str(caught.value)
    assert "3 tensors" in text
    assert "shape: m.initializ.mean is (1, 5, 32), initializer.mean is (1, 4, 32)" in text
    assert "unexpected: m.decode.bos" in text
    assert "missing: slot_attention.to_query.weight" in text


def test_refuses_another_methods_checkpoint(small):
    _, state = small
    other = build_method("VVOTfd", tiny_backbone())
    with pytest.raises(ValueError, match="checkpoint of DINOSAUR, the model is VVOTfd"):
        published.translate(state, other)


def test_recognises_published_names(small):
    model, state = small
    assert published.is_published(state)
    assert not published.is_published(model.state_dict())
    assert not published.is_published({})


@pytest.mark.parity
def test_stage_two_takes_its_parts_from_a_published_stage_one(golden):
    require(golden / "keys")
    model, state = full_size("vqdino_tfd_r-coco"), keys(golden, "vqdino-coco-c256")
    translated = published.translate(state, model, ["tokenizer.encoder", "tokenizer.quantizer"])
    assert translated.keys() == {name for name in model.state_dict() if name.startswith("tokenizer.")}
    narrow = full_size("vqdino-coco-c4")
    with pytest.raises(published.WeightsError, match=r"tokenizer\.quantizer\.code_proj\.weight is"):
        published.translate(state, narrow, ["tokenizer.encoder", "tokenizer.quantizer"])
