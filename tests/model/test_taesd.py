"""TAESD's layers are diffusers' `AutoencoderTiny`: same names, same first weights, same numbers."""

import pytest
import torch
from diffusers import AutoencoderTiny

from object_centric_bench.model.taesd import taesd_layers


@pytest.mark.parametrize(("side", "count", "channels"), [("encoder", 15, 3), ("decoder", 19, 4)])
def test_layers_are_those_of_diffusers_from_the_same_draws(side, count, channels):
    widths = (8,) * 4
    torch.manual_seed(3)
    network = AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    ours = taesd_layers(side, range(count), 8, pretrained=False)
    assert torch.equal(torch.rand(1), drawn)
    theirs = getattr(network, side).layers
    expected = theirs.state_dict()
    assert [*ours.state_dict()] == [*expected]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())
    hidden = torch.rand(2, channels, 32, 32)
    found = hidden
    for layer in ours.values():
        found = layer(found)
    assert torch.equal(found, theirs(hidden))
