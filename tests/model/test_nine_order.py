"""The decoders that read in nine orders: what they may see, that all is in place, and what they start from."""

import math

import pytest
import torch

from object_centric_bench.model.autoregressive import AutoregressiveTransformer
from object_centric_bench.model.nine_order import NineOrderTransformer, SPOTDecoder
from object_centric_bench.model.permutation import NUM_ORDERS, patch_orders
from object_centric_bench.model.position import FourierPosition

GRID = [4, 4]


def make_decoder(kind, position=None):
    torch.manual_seed(0)
    if kind == "codes":
        return NineOrderTransformer(GRID, 32, 40, num_layers=2, position=position)
    return SPOTDecoder(GRID, 48, 32, num_layers=2, position=position)


@pytest.mark.parametrize("kind", ["features", "codes"])
@pytest.mark.parametrize("order", range(NUM_ORDERS))
def test_nothing_is_predicted_from_itself_or_what_follows_in_the_order(kind, order, monkeypatch):
    decoder = make_decoder(kind).eval()
    monkeypatch.setattr(decoder.orders, "choose", lambda: [order])
    width = 32 if kind == "codes" else 48
    feature, slots = torch.randn(2, width, *GRID), torch.randn(2, 3, 32)
    expected, mask = decoder(feature, slots)
    torch.testing.assert_close(mask.sum(dim=1), torch.ones(2, *GRID))
    for step, place in enumerate(patch_orders(*GRID)[order].tolist()):
        changed = feature.flatten(2).clone()
        changed[:, :, place] += 1
        differs = (decoder(changed.view_as(feature), slots)[0] - expected).abs().amax(dim=(0, 1)).flatten()
        seen = differs[patch_orders(*GRID)[order]]  # in the order of prediction
        assert not seen[: step + 1].any()
        assert (seen[step + 1 :] > 0).all()


@pytest.mark.parametrize("kind", ["features", "codes"])
def test_all_orders_give_the_mean_of_each(kind, monkeypatch):
    decoder = make_decoder(kind, FourierPosition(GRID, 32 if kind == "codes" else 48)).eval()
    feature, slots = torch.randn(1, 32 if kind == "codes" else 48, *GRID), torch.randn(1, 3, 32)
    each = []
    for order in range(NUM_ORDERS):
        monkeypatch.setattr(decoder.orders, "choose", lambda order=order: [order])
        each.append(decoder(feature, slots))
    monkeypatch.undo()
    decoder.orders.modes = {False: "all"}
    for found, parts in zip(decoder(feature, slots), zip(*each, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(parts).mean(dim=0))


def test_in_the_standard_order_codes_are_predicted_as_without_orders():
    plain, nine = AutoregressiveTransformer(GRID, 32, 40, num_layers=2), make_decoder("codes").eval()
    weights = plain.state_dict()
    nine.load_state_dict(weights | {"start": weights["start"].view(1, 32).expand(NUM_ORDERS, -1)})
    feature, slots = torch.randn(2, 32, *GRID), torch.randn(2, 3, 32)
    assert torch.equal(nine(feature, slots)[0], plain(feature, slots))


@pytest.mark.parametrize("order", range(NUM_ORDERS))
def test_an_order_is_the_decoder_without_orders_on_places_put_in_that_order(order, monkeypatch):
    """Tokens, positions and start vector of the order go in; logits and masks come back in place."""
    grid, visited = [4, 3], patch_orders(4, 3)[order]
    torch.manual_seed(0)
    nine, plain = NineOrderTransformer(grid, 32, 40, num_layers=2), AutoregressiveTransformer(grid, 32, 40, 2)
    weights = nine.state_dict()
    embedding = weights["position.embedding"][:, visited]
    plain.load_state_dict(weights | {"start": weights["start"][order].view(1, 1, -1), "position.embedding": embedding})
    monkeypatch.setattr(nine.orders, "choose", lambda: [order])
    quantized, slots = torch.randn(2, 32, *grid), torch.randn(2, 3, 32)
    found = nine(quantized, slots)[0].flatten(2)[:, :, visited]
    expected = plain(quantized.flatten(2)[:, :, visited].unflatten(2, grid), slots).flatten(2)
    assert torch.equal(found, expected)


def test_without_a_word_training_draws_an_order_and_evaluation_takes_the_standard_one():
    for decoder in (make_decoder("features"), make_decoder("codes")):
        assert decoder.orders.modes == {True: "random", False: "standard"}


def test_no_gradient_reaches_the_features_that_the_decoder_reads():
    feature, slots = torch.randn(1, 48, *GRID, requires_grad=True), torch.randn(1, 3, 32, requires_grad=True)
    reconstruction, mask = make_decoder("features")(feature, slots)
    (reconstruction.square().sum() + mask.square().sum()).backward()
    assert feature.grad is None
    assert slots.grad.abs().sum() > 0


def bound(tensor):
    """Return the largest magnitude."""
    return tensor.abs().max().item()


@pytest.mark.parametrize("num_layers", [2, 4])
def test_spots_decoder_starts_as_the_papers(num_layers):
    """By hand: Xavier's bound sqrt(6 / (in + out)) times the gain, Kaiming's sqrt(6 / in) before the ReLU."""
    torch.manual_seed(0)
    dim, gain = 192, (3 * num_layers) ** -0.5
    decoder = SPOTDecoder([2, 2], dim, 64, num_layers)
    assert decoder.start.std().item() == pytest.approx(0.02, rel=0.05)
    expected = {decoder.to_token.weight: 3 / dim, decoder.to_memory.weight: 6 / (dim + 64)}
    for layer in decoder.layers:
        for attention in (layer.self_attention, layer.cross_attention):
            expected |= {attention.to_qkv.weight: 3 / dim, attention.to_out.weight: gain**2 * 3 / dim}
        expected |= {layer.mlp_in.weight: 6 / dim, layer.mlp_out.weight: gain**2 * 6 / (5 * dim)}
    for weight, squared in expected.items():
        assert 0.98 * squared**0.5 < bound(weight) <= squared**0.5
    assert not any(parameter.any() for name, parameter in decoder.named_parameters() if name.endswith("bias"))


def test_spots_decoder_starts_as_the_other_transformers_if_asked():
    torch.manual_seed(0)
    dim = 192
    decoder = SPOTDecoder([2, 2], dim, 64, bias=False, activation="gelu", xavier=False)
    assert decoder.start.std().item() == pytest.approx(dim**-0.5, rel=0.05)
    plain = AutoregressiveTransformer([2, 2], dim, 8)
    others = dict(plain.layers.named_parameters())
    for name, parameter in decoder.layers.named_parameters():
        if not name.endswith("bias") and parameter.ndim == 2:
            assert bound(parameter) == pytest.approx(bound(others[name]), rel=0.02), name


def test_start_vectors_of_codes_have_the_codes_spread():
    torch.manual_seed(0)
    start = NineOrderTransformer(GRID, 256, 40, num_layers=1).start
    assert start.shape == (NUM_ORDERS, 256)
    assert start.std().item() == pytest.approx(1 / math.sqrt(256), rel=0.05)


def test_a_decoder_without_layers_is_refused():
    for make in (lambda: NineOrderTransformer(GRID, 32, 40, num_layers=0), lambda: SPOTDecoder(GRID, 48, 32, 0)):
        with pytest.raises(ValueError, match="num_layers is at least 1, got 0"):
            make()
