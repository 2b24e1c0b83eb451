import pytest
import torch
from torch.nn import functional

from object_centric_bench.model.broadcast import BroadcastMLP


def test_equals_the_mixture_written_out():
    torch.manual_seed(0)
    decoder = BroadcastMLP(grid=[2, 3], dims=[4, 8, 8, 5]).double()
    slots = torch.randn(2, 3, 4).double()
    reconstruction, mask = decoder(slots)
    hidden = slots[:, :, None] + decoder.position.embedding  # every slot at every place
    for layer in decoder.layers[:-1]:
        hidden = functional.gelu(layer(hidden))
    hidden = decoder.layers[-1](hidden)
    weight = hidden[..., 5:].softmax(dim=1)
    expected = (weight * hidden[..., :5]).sum(dim=1).transpose(1, 2).view(2, 5, 2, 3)
    torch.testing.assert_close(reconstruction, expected)
    torch.testing.assert_close(mask, weight.view(2, 3, 2, 3))


def test_invalid_slots_are_not_blended_in():
    decoder = BroadcastMLP(grid=[2, 3], dims=[4, 8, 5])
    slots = torch.randn(1, 3, 4)
    reconstruction, mask = decoder(slots, slot_valid=torch.tensor([[True, False, True]]))
    assert mask[:, 1].abs().max() == 0
    torch.testing.assert_close(reconstruction, decoder(slots[:, [0, 2]])[0])


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match="slots has shape"):
        BroadcastMLP(grid=[2, 3], dims=[4, 5])(torch.zeros(1, 3, 5))
    with pytest.raises(ValueError, match="dims names"):
        BroadcastMLP(grid=[2, 3], dims=[4])
