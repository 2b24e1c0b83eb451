"""What all methods have in common: contracts of outputs, gradients, frozen parts, precision, sizes that must fit."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from object_centric_bench.learn.optimizer import freeze
from object_centric_bench.model.broadcast import BroadcastMLP
from object_centric_bench.model.dinosaur import DINOSAUR
from object_centric_bench.model.initializer import PerSlotGaussian
from object_centric_bench.model.mlp import MLP
from object_centric_bench.model.slot_attention import SlotAttention
from object_centric_bench.registry import ConfigError, build

from .sizes import DINOV2, METHODS, build_method, tiny_backbone

FROZEN = {  # the `freeze` of the config files
    "VQVAE": [r"tokenizer\.encoder\.taesd\.(?:[0-9]|10)\..*"],
    "VQDINO": [r"backbone\..*"],
    "DINOSAUR": [r"backbone\..*"],
}
STAGE_TWO = [r"backbone\..*", r"tokenizer\..*"]
CODES = {"grouped": [16, 16], "multi-scale": [16, 16, 8, 4]}
IMAGE_CODES = ["learned", *CODES]
CASES = [  # method, its codes if there is a choice, further arguments
    *(("VQVAE", codes, {}) for codes in IMAGE_CODES),
    ("VQDINO", None, {}),
    ("DINOSAUR", None, {}),
    *(("SLATE", codes, {}) for codes in IMAGE_CODES),
    *(("STEVE", codes, {}) for codes in IMAGE_CODES),
    *(("SlotDiffusion", codes, {}) for codes in IMAGE_CODES),
    *(("SlotDiffusion", codes, {"continuous_target": True}) for codes in IMAGE_CODES),
    ("VVOTfd", None, {}),
    ("VVOMlp", None, {}),
    ("VVODfz", None, {}),
    ("VVOTfdT", None, {}),
    ("VVOMlpT", None, {}),
    ("VVODfzT", None, {}),
    ("VVOTfdT", None, {"boxes": False}),
]
VIDEOS = [("VQDINO", None, {"video": True}), *(("VQVAE", codes, {"video": True}) for codes in IMAGE_CODES)]
FIRST_STAGE = {"latent", "code", "quantized", "mixed", "reconstruction"}
SECOND_STAGE = {"feature", "code", "quantized", "slots", "attention"}
KEYS = {
    "VQVAE": FIRST_STAGE,
    "VQDINO": FIRST_STAGE | {"feature"},
    "DINOSAUR": {"feature", "slots", "attention", "mask", "reconstruction"},
    "autoregressive": SECOND_STAGE | {"logits"},
    "diffusion": SECOND_STAGE | {"prediction", "noise"},
    "mixture": SECOND_STAGE | {"mask", "quantized_reconstruction", "feature_reconstruction"},
}


def label(case):
    method, codes, options = case
    return "-".join([method, *([codes] if codes else []), *(f"{key}={value}" for key, value in options.items())])


def is_continuous(case):
    return case[2].get("continuous_target", False)


def every(cases=CASES + VIDEOS):
    return pytest.mark.parametrize("case", cases, ids=label)


WITH_CODES = every(
    [case for case in CASES if case[0] not in ("VQVAE", "VQDINO", "DINOSAUR") and not is_continuous(case)]
)


def make(case):
    """Build a tiny model, frozen as its config freezes it."""
    method, codes, options = case
    torch.manual_seed(0)
    options = {key: value for key, value in options.items() if key != "video"}
    sizes = {"basis_dim": 64, "num_codes": CODES.get(codes, 64), "logit_scale": 2.35}
    backbone = None if method == "VQVAE" else tiny_backbone()
    model = build_method(method, backbone, codes=codes, **sizes, **options)
    freeze(model, FROZEN.get(method, STAGE_TWO))
    return model


def inputs_of(case):
    """Return a batch, of videos if the method is for them; noise is given, so that evaluation draws nothing."""
    method, _, options = case
    kind = METHODS[method]
    video = kind.video or options.get("video", False)
    lead = (2, 3) if video else (2,)
    torch.manual_seed(1)
    batch = {"video" if video else "image": torch.randn(*lead, 3, 64, 64)}
    if kind.video and options.get("boxes", True):
        batch["box"] = torch.rand(2, 3, 4, 4)
    if kind.decoder == "diffusion":
        batch |= {"timestep": torch.randint(1000, lead), "noise": torch.randn(*lead, 4, 4, 4)}
    return batch


def loss_of(output):
    """A loss that every trained part contributes to."""
    if isinstance(output.get("latent"), list):
        scales = [{key: value[scale] for key, value in output.items()} for scale in range(len(output["latent"]))]
        return sum(loss_of(scale) for scale in scales)
    if "logits" in output:
        logits, code = output["logits"].movedim(-3, -1), output["code"]
        if code.ndim == logits.ndim - 1:
            return functional.cross_entropy(logits.flatten(0, -2), code.flatten())
        parts = zip(logits.chunk(code.shape[-3], dim=-1), code.unbind(-3), strict=True)
        return sum(functional.cross_entropy(part.flatten(0, -2), one.flatten()) for part, one in parts)
    if "latent" in output:
        align = functional.mse_loss(output["quantized"], output["latent"].detach())
        return align + output["reconstruction"].square().mean()
    if "prediction" in output:
        return functional.mse_loss(output["prediction"], output["noise"])
    if "quantized_reconstruction" in output:
        loss = functional.mse_loss(output["quantized_reconstruction"], output["quantized"])
        return loss + functional.mse_loss(output["feature_reconstruction"], output["feature"])
    return functional.mse_loss(output["reconstruction"], output["feature"])


def tensors_of(output):
    """Return all tensors of an output, those of lists by themselves."""
    lists = {
        f"{key}.{index}": item
        for key, value in output.items()
        for index, item in enumerate(value)
        if isinstance(value, list)
    }
    return lists | {key: value for key, value in output.items() if not isinstance(value, list)}


def assert_equal(output, expected):
    output, expected = tensors_of(output), tensors_of(expected)
    assert output.keys() == expected.keys()
    for key in expected:
        assert torch.equal(output[key], expected[key]), key


@every()
def test_outputs(case):
    method, codes, _ = case
    batch = inputs_of(case)
    lead = batch["video"].shape[:2] if "video" in batch else batch["image"].shape[:1]
    output = make(case)(**batch)
    without = {"code", "quantized"} if is_continuous(case) else set()  # nobody needs codes then
    assert output.keys() == KEYS[method if method in KEYS else METHODS[method].decoder] - without
    for key in {"attention", "mask"} & output.keys():
        assert output[key].shape == (*lead, 4, 4, 4)
        torch.testing.assert_close(output[key].sum(dim=-3), torch.ones(*lead, 4, 4))
    if "slots" in output:
        assert output["slots"].shape == (*lead, 4, 32)
    for key, value in tensors_of(output).items():
        name, _, scale = key.partition(".")
        side = 4 >> int(scale or 0)
        if name == "code":
            assert value.dtype == torch.int64
            assert value.shape == (*lead, *([2] if codes in CODES else []), side, side)
        if name == "reconstruction" and method != "DINOSAUR":
            assert value.shape == (*lead, 3, 8 * side, 8 * side)


@every()
def test_every_trained_parameter_gets_a_gradient_and_no_other(case):
    """But for the bias of the norm on slots: it adds the same to the logits of all slots, which softmax cancels."""
    method = case[0]
    model, batch = make(case), inputs_of(case)
    model.train()
    loss_of(model(**batch)).backward()
    trained = 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            trained += 1
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0 or name == "slot_attention.norm_slots.bias", name
        else:
            assert parameter.grad is None, name
            last_blocks = method == "VQVAE" and name.startswith("tokenizer.encoder.taesd.")
            assert last_blocks or name.startswith("backbone.") or (method != "VQDINO" and name.startswith("tokenizer."))
    assert trained > 10


@every()
def test_one_step_changes_what_is_trained_and_nothing_else(case):
    model, batch = make(case), inputs_of(case)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=10.0)
    loss_of(model(**batch)).backward()
    optimizer.step()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed <= trained
    assert trained - changed <= {"slot_attention.norm_slots.bias"}


@every()
def test_evaluation_is_deterministic_and_training_is_not(case):
    method, codes, _ = case
    model, batch = make(case).train(), inputs_of(case)
    first, second = model(**batch), model(**batch)
    if codes == "learned" and method == "VQVAE":  # it draws nothing
        assert_equal(first, second)
    else:
        key = "quantized.0" if codes == "multi-scale" and method == "VQVAE" else "quantized"
        first, second = tensors_of(first), tensors_of(second)
        assert not torch.equal(
            first["slots" if "slots" in first else key], second["slots" if "slots" in second else key]
        )
    if method != "VQVAE":
        assert not model.backbone.training
    model.eval()
    assert_equal(model(**batch), model(**batch))


@WITH_CODES
def test_frozen_tokenizer_draws_codes_in_training_only_if_asked_to(case):
    model, batch = make(case), inputs_of(case)
    model.eval()
    nearest = model(**batch)["code"]
    model.train()
    assert not model.tokenizer.training
    assert torch.equal(model(**batch)["code"], nearest) == (case[1] == "learned")
    model.sample_codes = False
    assert torch.equal(model(**batch)["code"], nearest)


@every([case for case in CASES + VIDEOS if case[0] != "VQVAE"])
def test_a_cached_feature_gives_the_same(case):
    model, batch = make(case).eval(), inputs_of(case)
    expected = model(**batch)
    picture = batch["video"].flatten(0, 1) if "video" in batch else batch["image"]
    feature = model.backbone(picture).view(expected["feature"].shape)
    if METHODS[case[0]].encoder != "image":  # otherwise the tokenizer wants the picture
        batch.pop("video", None), batch.pop("image", None)
    model.backbone = nn.Identity()  # is not asked again
    model.backbone.dim, model.backbone.grid = 48, [4, 4]
    assert_equal(model(**batch, feature=feature), expected)


@every([case for case in CASES if METHODS[case[0]].encoder != "image"])
def test_an_empty_batch_is_refused(case):
    batch = {key: value for key, value in inputs_of(case).items() if key not in ("image", "video")}
    name = "video" if METHODS[case[0]].video else "image"
    with pytest.raises(ValueError, match=f"neither {name} nor feature"):
        make(case)(**batch)


@every()
def test_half_precision_trains(case):
    model, batch = make(case).train(), inputs_of(case)
    if "slot_attention" in dict(model.named_children()):
        with torch.no_grad():
            model.slot_attention.to_query.weight.mul_(20)  # far from equal shares, which half precision holds exactly
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch)
        loss = loss_of(output)
    loss.backward()
    assert torch.isfinite(loss)
    for key in {"attention", "mask"} & output.keys():
        total = output[key].sum(dim=-3).float()
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-5)


@every()
def test_state_survives_saving(case):
    model, other, batch = make(case).eval(), make(case).eval(), inputs_of(case)
    for parameter in other.parameters():
        nn.init.normal_(parameter, std=0.02)
    other(**batch)  # fills the cache of codes
    other.load_state_dict(model.state_dict())
    assert_equal(other(**batch), model(**batch))


def test_projection_starts_without_biases():
    assert not any(layer.bias.any() for layer in make(("DINOSAUR", None, {})).projection.layers)


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


def test_builds_from_a_config():
    assert build(config(), "model")(image=torch.randn(2, 3, 64, 64))["mask"].shape == (2, 4, 4, 4)


def test_a_grid_that_does_not_fit_names_its_place_in_the_config():
    node = config()
    node["decoder"]["grid"] = [5, 5]
    with pytest.raises(ConfigError, match=r"^model: backbone's grid is \[4, 4\] but decoder's grid is \[5, 5\]$"):
        build(node, "model")
