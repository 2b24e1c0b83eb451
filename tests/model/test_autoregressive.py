import pytest
import torch

from object_centric_bench.model.autoregressive import AutoregressiveTransformer
from object_centric_bench.model.nine_order import NineOrderTransformer


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


@pytest.mark.parametrize("kind", [AutoregressiveTransformer, NineOrderTransformer])
def test_dropped_codes_are_not_read_in_training_and_all_are_in_evaluation(kind):
    torch.manual_seed(0)
    decoder = kind(grid=[3, 4], dim=8, num_codes=10, num_layers=1, num_heads=2, token_dropout=1.0)
    quantized, others, slots = torch.randn(1, 8, 3, 4), torch.randn(1, 8, 3, 4), torch.randn(1, 2, 8)

    def decode(tokens):
        torch.manual_seed(1)  # of the order
        found = decoder(tokens, slots)
        return found if torch.is_tensor(found) else found[0]

    assert torch.equal(decode(quantized), decode(others))
    decoder.eval()
    assert not torch.equal(decode(quantized), decode(others))


def test_a_share_of_the_codes_is_dropped_each_by_itself():
    torch.manual_seed(0)
    decoder = AutoregressiveTransformer(grid=[40, 50], dim=8, num_codes=4, num_layers=1, token_dropout=0.3)
    dropped = (decoder.drop_tokens(torch.ones(3, 2000, 8)) == 0).float()
    assert torch.equal(dropped.amin(dim=2), dropped.amax(dim=2)), "a code is dropped as a whole"
    assert dropped.mean().item() == pytest.approx(0.3, abs=0.03)
    assert dropped.std(dim=0).amax() > 0, "other places in every sample"
    with pytest.raises(ValueError, match=r"token_dropout is a probability, got 1\.5"):
        AutoregressiveTransformer(grid=[2, 2], dim=8, num_codes=4, token_dropout=1.5)
