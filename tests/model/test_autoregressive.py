import pytest
import torch

from object_centric_bench.model.autoregressive import AutoregressiveTransformer


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return AutoregressiveTransformer(grid=[3, 4], dim=8, num_codes=10, num_layers=2, num_heads=2).double().eval()


def test_no_code_sees_itself_or_what_follows(decoder):
    quantized, slots = torch.randn(1, 8, 3, 4).double(), torch.randn(1, 2, 8).double()
    logits = decoder(quantized, slots).flatten(2)
    assert logits.shape == (1, 10, 12)
    for place in range(12):
        changed = quantized.flatten(2).clone()
        changed[:, :, place:] += torch.randn(1, 8, 12 - place)
        differs = (decoder(changed.view_as(quantized), slots).flatten(2) - logits).abs().amax(dim=(0, 1))
        assert differs[: place + 1].max() < 1e-12
        if place < 11:
            assert differs[place + 1 :].min() > 1e-6


def test_order_of_slots_does_not_count(decoder):
    quantized, slots = torch.randn(1, 8, 3, 4).double(), torch.randn(1, 3, 8).double()
    torch.testing.assert_close(decoder(quantized, slots.flip(1)), decoder(quantized, slots))


def test_layers_start_independently_and_without_biases(decoder):
    first, second = decoder.layers
    assert not torch.equal(first.mlp_in.weight, second.mlp_in.weight)
    assert not any("bias" in name for name, _ in decoder.named_parameters())


def test_wrong_grid_or_width_is_named(decoder):
    with pytest.raises(ValueError, match=r"wanted \(any, 8, 3, 4\)"):
        decoder(torch.zeros(1, 8, 4, 4).double(), torch.zeros(1, 2, 8).double())
    with pytest.raises(ValueError, match="slots has shape"):
        decoder(torch.zeros(1, 8, 3, 4).double(), torch.zeros(1, 2, 6).double())
    with pytest.raises(ValueError, match="no multiple of num_heads"):
        AutoregressiveTransformer(grid=[2, 2], dim=8, num_codes=4, num_heads=3)
