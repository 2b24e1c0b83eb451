"""The recurrence over frames, and what treats frames alike, against plain loops."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from object_centric_bench.model import temporal
from object_centric_bench.model.initializer import BoxMLP, PerSlotGaussian, SharedGaussian
from object_centric_bench.model.mlp import MLP
from object_centric_bench.model.slot_attention import SlotAttention
from object_centric_bench.model.temporal import SlotPredictor, group_frames, in_chunks, per_frame, start_slots


def parts(num_iterations=1, bilevel=True):
    torch.manual_seed(0)
    attention = SlotAttention(8, num_iterations=num_iterations, bilevel=bilevel)
    return [part.double().eval() for part in (MLP([6, 12, 8], norm=True), attention, SlotPredictor(8, num_heads=2))]


def frame_by_frame(feature, projection, slots, attention, predictor):
    """What a reader of the paper would write: all parts per frame, and a prediction after each."""
    refined, maps = [], []
    for frame in feature.unbind(1):
        tokens = projection(frame.flatten(2).transpose(1, 2))
        slots, shares = attention(tokens, slots)
        refined.append(slots)
        maps.append(shares.unflatten(2, frame.shape[2:]))
        slots = predictor(slots)
    return torch.stack(refined, 1), torch.stack(maps, 1)


@pytest.mark.parametrize(("iterations", "bilevel"), [(1, True), (3, True), (3, False)])
def test_frames_at_once_equal_frame_by_frame(iterations, bilevel):
    projection, attention, predictor = modules = parts(iterations, bilevel)
    feature, slots = torch.randn(2, 4, 6, 3, 5).double(), torch.randn(2, 3, 8).double()
    gradients = []
    for function in (group_frames, frame_by_frame):
        start = slots.clone().requires_grad_()
        refined, maps = function(feature, projection, start, attention, predictor)
        assert refined.shape == (2, 4, 3, 8)
        assert maps.shape == (2, 4, 3, 3, 5)
        inputs = [start, *(parameter for module in modules for parameter in module.parameters())]
        gradients.append([refined, maps, *torch.autograd.grad((refined**2).sum() + (maps**2).sum(), inputs)])
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-11)


def test_early_iterations_record_no_graph():
    projection, attention, predictor = parts(num_iterations=3)
    recorded = []
    attention.mlp.register_forward_hook(lambda *_: recorded.append(torch.is_grad_enabled()))
    group_frames(torch.randn(1, 2, 6, 2, 2).double(), projection, torch.randn(1, 3, 8).double(), attention, predictor)
    assert recorded == [False, False, True] * 2


def test_nothing_is_predicted_after_the_last_frame_and_shared_work_is_done_once():
    projection, attention, predictor = parts()
    calls = {"predictor": 0, "projection": 0, "to_key": 0}
    for name, module in (("predictor", predictor), ("projection", projection), ("to_key", attention.to_key)):
        module.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    group_frames(torch.randn(1, 5, 6, 2, 2).double(), projection, torch.randn(1, 3, 8).double(), attention, predictor)
    assert calls == {"predictor": 4, "projection": 1, "to_key": 1}


def test_a_video_of_one_frame_is_an_image():
    projection, attention, predictor = parts()
    feature, slots = torch.randn(2, 6, 3, 3).double(), torch.randn(2, 3, 8).double()
    refined, maps = group_frames(feature[:, None], projection, slots, attention, predictor)
    tokens = projection(feature.flatten(2).transpose(1, 2))
    expected, shares = attention(tokens, slots)
    torch.testing.assert_close(refined[:, 0], expected)
    torch.testing.assert_close(maps[:, 0].flatten(2), shares)


def test_permuting_slots_permutes_outputs():
    projection, attention, predictor = parts()
    feature, slots = torch.randn(2, 3, 6, 3, 3).double(), torch.randn(2, 4, 8).double()
    order = torch.tensor([2, 0, 3, 1])
    refined, maps = group_frames(feature, projection, slots, attention, predictor)
    permuted, permuted_maps = group_frames(feature, projection, slots[:, order], attention, predictor)
    torch.testing.assert_close(permuted, refined[:, :, order])
    torch.testing.assert_close(permuted_maps, maps[:, :, order])


@pytest.mark.parametrize("recording", [True, False])  # without autograd PyTorch may take another path
def test_predictor_is_a_post_norm_transformer_layer_without_biases(recording):
    torch.manual_seed(0)
    predictor = SlotPredictor(8, num_heads=2, hidden_dim=24).double().eval()
    assert all("bias" not in name for name, _ in predictor.named_parameters())
    weight = {name.removeprefix("layer."): value for name, value in predictor.named_parameters()}
    assert weight["linear1.weight"].shape == (24, 8)
    with torch.no_grad():
        for value in weight.values():
            value.mul_(1.5)
    slots = torch.randn(3, 5, 8).double()
    query, key, value = (
        part.unflatten(-1, (2, 4)).transpose(1, 2)
        for part in (slots @ weight["self_attn.in_proj_weight"].T).chunk(3, dim=-1)
    )
    mixed = (query @ key.transpose(2, 3) / 4**0.5).softmax(dim=-1) @ value
    hidden = slots + mixed.transpose(1, 2).flatten(2) @ weight["self_attn.out_proj.weight"].T
    hidden = functional.layer_norm(hidden, (8,), weight["norm1.weight"])
    inner = functional.gelu(hidden @ weight["linear1.weight"].T) @ weight["linear2.weight"].T
    expected = functional.layer_norm(hidden + inner, (8,), weight["norm2.weight"])
    with torch.set_grad_enabled(recording):
        torch.testing.assert_close(predictor(slots), expected)


def test_predictor_drops_in_training_only_and_keeps_single_precision_under_autocast():
    predictor = SlotPredictor(8)
    slots = torch.randn(2, 3, 8)
    assert not torch.equal(predictor(slots), predictor(slots))
    predictor.eval()
    assert torch.equal(predictor(slots), predictor(slots))
    with torch.autocast("cpu", torch.bfloat16):
        assert predictor(slots).dtype == torch.float32


def test_predictor_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="dim 10 is no multiple of num_heads 4"):
        SlotPredictor(10)
    with pytest.raises(ValueError, match=r"slots has shape \(2, 3, 6\), wanted \(any, any, 8\)"):
        SlotPredictor(8)(torch.zeros(2, 3, 6))


class Layouts(nn.Module):
    """Gives a dict of nested results in several layouts and types; draws nothing."""

    def forward(self, first, second):
        transposed = (first[:, :, None] * second[:, None]).transpose(1, 2)
        return {"one": transposed, "many": [first.long(), (second + 1, first[:, 0])]}


@pytest.mark.parametrize("size", [1, 3, 4, 10, 99])
def test_chunks_join_to_the_whole_in_the_same_layout(size):
    first, second = 10 * torch.randn(10, 4), torch.randn(10, 5)
    whole, joined = Layouts()(first, second), in_chunks(Layouts(), size, first, second)
    assert torch.equal(joined["one"], whole["one"])
    assert joined["one"].stride() == whole["one"].stride()
    assert isinstance(joined["many"], list) and isinstance(joined["many"][1], tuple)
    assert torch.equal(joined["many"][0], whole["many"][0]) and joined["many"][0].dtype == torch.int64
    assert all(torch.equal(*pair) for pair in zip(joined["many"][1], whole["many"][1], strict=True))


def test_frames_are_chunked_only_without_autograd(monkeypatch):
    monkeypatch.setattr(temporal, "FRAMES_AT_ONCE", 4)
    sizes = []

    def function(tensor):
        sizes.append(len(tensor))
        return tensor * 2

    video = torch.randn(2, 3, 5)
    assert torch.equal(per_frame(function, video), video * 2)
    with torch.no_grad():
        assert torch.equal(per_frame(function, video), video * 2)
    assert sizes == [6, 4, 2]


def test_slots_start_from_boxes_of_the_first_frame_or_from_nothing():
    mlp, box = BoxMLP(8), torch.rand(2, 3, 5, 4)
    slots = start_slots(mlp, box, 2)
    assert torch.equal(slots, mlp(box[:, 0]))
    assert slots.shape == (2, 5, 8)
    for initializer in (PerSlotGaussian(5, 8), SharedGaussian(5, 8)):
        assert start_slots(initializer, None, 2).shape == (2, 5, 8)
        assert start_slots(initializer, box, 2).shape == (2, 5, 8)
    with pytest.raises(ValueError, match=r"box is missing: BoxMLP .* Add 'box' to the dataset's keys"):
        start_slots(mlp, None, 2)
    with pytest.raises(ValueError, match=r"box has shape \(2, 5, 4\), wanted \(2, any, any, 4\)"):
        start_slots(mlp, box[:, 0], 2)
