"""SPOT's parts against the reference, and what must hold of both its stages and of VVO-Tfd9."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from object_centric_bench.learn.distillation import MatchedDistillation
from object_centric_bench.learn.optimizer import freeze, train_mode
from object_centric_bench.model.initializer import LearnedSlots, SharedGaussian
from object_centric_bench.model.mlp import MLP
from object_centric_bench.model.nine_order import NineOrderTransformer, SPOTDecoder
from object_centric_bench.model.permutation import NUM_ORDERS
from object_centric_bench.model.slot_attention import SlotAttention
from object_centric_bench.model.spot import SPOT, SPOTDistill
from object_centric_bench.model.vvo import VVOTfd9

from .second_stage import gradient_faults, make_parts, make_tokenizer
from .sizes import tiny_backbone

SLOT_ATTENTION = {
    "norm_tokens.weight": "ln_in.g", "norm_tokens.bias": "ln_in.b", "to_key.weight": "k", "to_value.weight": "v",
    "norm_slots.weight": "ln_slot.g", "norm_slots.bias": "ln_slot.b", "to_query.weight": "q",
    "gru.weight_ih": "gru_ih", "gru.weight_hh": "gru_hh", "gru.bias_ih": "gru_ih.b", "gru.bias_hh": "gru_hh.b",
    "mlp.norm.weight": "ln_mlp.g", "mlp.norm.bias": "ln_mlp.b", "mlp.layers.0.weight": "mlp1",
    "mlp.layers.0.bias": "mlp1.b", "mlp.layers.1.weight": "mlp2", "mlp.layers.1.bias": "mlp2.b",
}  # fmt: skip
GRID = [4, 4]
TRAINED = r"backbone\.(?!model\.blocks\.1\.).*"  # all but the last of two blocks


def load(golden, name):
    with np.load(golden / "beyond" / name) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def assert_near(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def decoder_weights(known):
    """Return the reference decoder's weights under our names."""
    weights = {"start": known["w/bos"].view(NUM_ORDERS, -1)}
    for our, their in (("token", "in"), ("memory", "slot")):
        weights[f"to_{our}.weight"] = known[f"w/{their}_proj"]
        weights |= norm(known, f"norm_{our}", f"{their}_ln")
    weights |= norm(known, "norm", "blk0/ln1") | norm(known, "final_norm", "out_ln")
    for index in range(2):
        layer, block = f"layers.{index}", f"blk{index}"
        for our, their in (("self", "sa"), ("cross", "ca")):
            parts = [known[f"w/{block}/{their}_{part}"] for part in "qkv"]
            weights[f"{layer}.{our}_attention.to_qkv.weight"] = torch.cat(parts)
            weights[f"{layer}.{our}_attention.to_out.weight"] = known[f"w/{block}/{their}_o"]
        norms = [("norm_cross", "ln2"), ("norm_mlp", "ln3")] + [("norm_self", "ln1")] * (index > 0)
        for our, their in norms:
            weights |= norm(known, f"{layer}.{our}", f"{block}/{their}")
        for our, their in (("mlp_in", "ff1"), ("mlp_out", "ff2")):
            weights[f"{layer}.{our}.weight"] = known[f"w/{block}/{their}"]
            weights[f"{layer}.{our}.bias"] = known[f"w/{block}/{their}.b"]
    return weights


def norm(known, our, their):
    return {f"{our}.weight": known[f"w/{their}.g"], f"{our}.bias": known[f"w/{their}.b"]}


@pytest.mark.parity
@pytest.mark.parametrize("truncation", ["none", "bi_level", "fixed_point"])
def test_slot_attention_equals_the_reference(golden, truncation):
    """The reference's fixed point is our bilevel truncation of initial slots that are not trained."""
    known = load(golden, "spot_slot_attention.npz")
    bilevel = truncation != "none"
    module = SlotAttention(8, 10, 16, bilevel=bilevel, dropout=0.0, epsilon=1e-8, activation="relu")
    module.load_state_dict({our: known[f"w/{their}"] for our, their in SLOT_ATTENTION.items()})
    tokens, initial = known["feat"].requires_grad_(), known["init"].requires_grad_()
    start = initial.detach() if truncation == "fixed_point" else initial
    slots, attention, logits = module.refine_with_logits(start, *module.embed(tokens))
    assert_near(slots, known["slots"])
    assert_near(attention.transpose(1, 2), known["attn"])
    assert_near(logits.transpose(1, 2), known["logits"])
    (slots * known["cotangent"]).sum().backward()
    assert_near(tokens.grad, known[f"grad_feat_{truncation}"])
    assert_near(torch.zeros_like(initial) if initial.grad is None else initial.grad, known[f"grad_init_{truncation}"])


@pytest.mark.parity
def test_decoder_equals_the_reference_in_every_order_and_on_average(golden, monkeypatch):
    known = load(golden, "spot_decoder.npz")
    decoder = SPOTDecoder([3, 3], 8, 6, num_layers=2, num_heads=2).eval()
    decoder.load_state_dict(decoder_weights(known))
    feature = known["emb"].transpose(1, 2).unflatten(2, (3, 3))

    def decode():
        return [part.flatten(2).transpose(1, 2) for part in decoder(feature, known["slots"])]

    for order in range(NUM_ORDERS):
        monkeypatch.setattr(decoder.orders, "choose", lambda order=order: [order])
        reconstruction, mask = decode()
        assert_near(reconstruction, known["recon_per_perm"][order])
        assert_near(mask, known["attn_per_perm"][order])
    monkeypatch.setattr(decoder.orders, "choose", lambda: list(range(NUM_ORDERS)))
    reconstruction, mask = decode()
    assert_near(reconstruction, known["recon_all"])
    assert_near(mask, known["attn_all"])
    assert_near(functional.mse_loss(reconstruction, known["emb"]), known["mse_all"])
    monkeypatch.undo()
    assert_near(functional.mse_loss(decode()[0], known["emb"]), known["mse_std"])  # what evaluation takes


def parts(decoder_options=None, backbone=None, initializer=SharedGaussian, bilevel=False):
    return {
        "backbone": backbone or tiny_backbone(depth=2, num_heads=3),
        "projection": MLP([48, 48, 48], norm=True, activation="relu"),
        "initializer": initializer(3, 32),
        "slot_attention": SlotAttention(32, 48, bilevel=bilevel, dropout=0.0, epsilon=1e-8, activation="relu"),
        "decoder": SPOTDecoder(GRID, 48, 32, num_layers=2, **(decoder_options or {})),
    }


def make_spot():
    torch.manual_seed(0)
    return SPOT(**parts())


def make_distill(shared_blocks=0):
    torch.manual_seed(0)
    student = parts(backbone=tiny_backbone(depth=2, num_heads=3), initializer=LearnedSlots, bilevel=True)
    student["backbone"].requires_grad_(True)
    model = SPOTDistill(SPOT(**parts({"eval_order": "random"})), **student, shared_blocks=shared_blocks)
    freeze(model, [TRAINED])
    return model


@pytest.fixture
def image():
    torch.manual_seed(1)
    return torch.randn(2, 3, 64, 64)


def test_outputs(image):
    output = make_spot()(image=image)
    assert output.keys() == {"feature", "slots", "attention", "mask", "reconstruction"}
    assert output["reconstruction"].shape == output["feature"].shape == (2, 48, 4, 4)
    for name in ("mask", "attention"):
        assert output[name].shape == (2, 3, 4, 4)
        torch.testing.assert_close(output[name].sum(dim=1), torch.ones(2, 4, 4))
    distilled = make_distill()(image)
    assert distilled.keys() == output.keys() | {"attention_logits", "teacher_mask"}
    torch.testing.assert_close(distilled["attention_logits"].softmax(dim=1), distilled["attention"])
    assert not distilled["teacher_mask"].requires_grad


def test_a_cached_feature_gives_the_same(image):
    model = make_spot().eval()
    torch.manual_seed(2)
    expected = model(image=image)
    torch.manual_seed(2)
    found = model(feature=model.backbone(image))
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def all_orders(model):
    """Let the decoder train in all orders at once, so that each start vector counts."""
    model.decoder.orders.modes = {True: "all", False: "all"}
    return model


def without_gradient(model):
    """Return the trained parameters without a gradient."""
    named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    return [name for name, each in named if each.grad is None or not each.grad.abs().sum() > 0]


def test_every_trained_parameter_of_the_first_stage_gets_a_gradient(image):
    model = all_orders(make_spot().train())
    output = model(image=image)
    functional.mse_loss(output["reconstruction"], output["feature"]).backward()
    assert without_gradient(model) == []
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


@pytest.mark.parametrize("shared_blocks", [0, 1])
def test_every_trained_parameter_of_the_second_stage_gets_a_gradient_and_the_teacher_none(shared_blocks, image):
    model = all_orders(make_distill(shared_blocks).train())
    before = {name: tensor.clone() for name, tensor in model.teacher.state_dict().items()}
    output = model(image)
    distillation = MatchedDistillation(weight=1.0)({}, output)
    (functional.mse_loss(output["reconstruction"], output["feature"]) + distillation).backward()
    assert without_gradient(model) == []
    frozen = [name for name, each in model.named_parameters() if not each.requires_grad and each.grad is not None]
    assert frozen == []
    assert not any(each.requires_grad for each in model.teacher.parameters())
    trained = {name for name, each in model.backbone.named_parameters() if each.requires_grad}
    assert trained and all(name.startswith("model.blocks.1.") for name in trained)
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.teacher.state_dict().items())


def test_the_distillation_alone_trains_slots_and_backbone_but_no_decoder(image):
    model = make_distill().train()
    MatchedDistillation(weight=1.0)({}, model(image)).backward()
    assert all(parameter.grad is None for parameter in model.decoder.parameters())
    assert model.backbone.model.blocks[1].attn.qkv.weight.grad.abs().sum() > 0
    assert model.slot_attention.to_key.weight.grad.abs().sum() > 0


def test_teacher_and_backbones_stay_in_eval_mode(image):
    model = make_distill()
    train_mode(model)
    assert model.decoder.training and model.slot_attention.training
    assert not any(part.training for part in (*model.teacher.modules(), *model.backbone.modules()))
    assert model.teacher.decoder.orders.modes[False] == "random"


def test_the_students_decoder_reads_and_predicts_the_teachers_features(image):
    model = make_distill()
    expected = model.teacher.backbone(image)
    torch.nn.init.normal_(model.backbone.model.blocks[1].attn.qkv.weight)
    read = []
    model.decoder.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    output = model(image)
    assert len(read) == 1 and torch.equal(read[0], expected)
    assert torch.equal(output["feature"], expected)
    assert not torch.equal(model.backbone(image), expected)


def test_the_student_is_taught_by_the_masks_of_the_teachers_decoder(image):
    model = make_distill().train()
    torch.manual_seed(3)
    expected = model.teacher(image)
    torch.manual_seed(3)  # of the initial slots and of the order
    found = model(image)["teacher_mask"]
    assert torch.equal(found, expected["mask"])
    assert not torch.allclose(found, expected["attention"])


@pytest.mark.parametrize("xavier", [False, True])
def test_projection_and_slot_attention_start_by_the_papers_rules_if_asked(xavier):
    torch.manual_seed(0)
    student = parts(initializer=LearnedSlots) | {"xavier": xavier}
    for model in (SPOT(**parts(), xavier=xavier), SPOTDistill(make_spot(), **student)):
        weight = model.slot_attention.gru.weight_hh
        assert torch.allclose(weight.T @ weight, torch.eye(32), atol=1e-5) == xavier
        largest = model.projection.layers[0].weight.abs().max()
        assert 0.98 * (6 / 48) ** 0.5 < largest <= (6 / 48) ** 0.5 if xavier else largest <= 48**-0.5


def make_tfd9(**options):
    torch.manual_seed(0)
    return VVOTfd9(
        **make_parts(make_tokenizer("simvq", 32)), decoder=NineOrderTransformer(GRID, 32, 40, num_layers=2, **options)
    )


def test_codes_in_nine_orders_get_gradients_and_masks(image):
    model = all_orders(make_tfd9().train())
    output = model(image=image)
    assert output.keys() == {"feature", "code", "quantized", "slots", "attention", "mask", "logits"}
    assert output["logits"].shape == (2, 40, 4, 4)
    torch.testing.assert_close(output["mask"].sum(dim=1), torch.ones(2, 4, 4))
    functional.cross_entropy(output["logits"], output["code"]).backward()
    assert not gradient_faults(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SPOTDecoder(GRID, 48, 32, num_heads=5), "dim 48 is no multiple of num_heads 5"),
        (lambda: SPOTDecoder(GRID, 48, 32, num_layers=0), "num_layers is at least 1, got 0"),
        (lambda: SPOTDecoder(GRID, 48, 32, activation="tanh"), "activation is 'relu' or 'gelu', got 'tanh'"),
        (lambda: SPOT(**parts() | {"decoder": SPOTDecoder([2, 2], 48, 32)}), "backbone's grid is"),
        (lambda: SPOT(**parts() | {"decoder": SPOTDecoder(GRID, 48, 16)}), "decoder's slot width is 16"),
        (lambda: SPOTDistill(make_spot(), **parts() | {"initializer": LearnedSlots(4, 32)}), "teacher's num_slots is"),
    ],
)
def test_parts_that_do_not_fit_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
