import pytest
import torch
from torch import nn

from object_centric_bench.model.diffusion import build_unet
from object_centric_bench.model.unet import PlainAttention, SmallMapConv2d, quicken


@pytest.mark.parametrize("size, kernel, stride", [(2, 3, 1), (4, 3, 2), (4, 1, 1), (9, 3, 1)])
def test_a_small_convolution_equals_pytorchs(size, kernel, stride):
    """The last one is large, and left to PyTorch."""
    torch.manual_seed(0)
    plain = nn.Conv2d(5, 7, kernel, stride, kernel // 2).double()
    ours = SmallMapConv2d(5, 7, kernel, stride, kernel // 2).double()
    ours.load_state_dict(plain.state_dict())
    image = torch.randn(2, 5, size, size + 1, dtype=torch.float64, requires_grad=True)
    expected, found = plain(image), ours(image)
    torch.testing.assert_close(found, expected)
    of_plain = torch.autograd.grad(expected.square().sum(), [image, *plain.parameters()])
    of_ours = torch.autograd.grad(found.square().sum(), [image, *ours.parameters()])
    for mine, theirs in zip(of_ours, of_plain, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_quickened_unet_is_diffusers_own():
    """Against the UNet as diffusers builds it, with the same parameters under the same names."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    ours = build_unet(4, 16, [32, 64], 1, 8, 0.0).eval()
    plain = UNet2DConditionModel.from_config(ours.config).eval()
    assert list(plain.state_dict()) == list(ours.state_dict())
    plain.load_state_dict(ours.state_dict())
    assert all(isinstance(processor, PlainAttention) for processor in ours.attn_processors.values())
    assert sum(type(part) is SmallMapConv2d for part in ours.modules()) > 10
    assert not any(type(part) is nn.Conv2d for part in ours.modules())
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    slots = torch.randn(2, 5, 16)
    found, expected = (unet(*inputs, encoder_hidden_states=slots).sample for unet in (ours, plain))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_masks_are_refused():
    with pytest.raises(ValueError, match="takes no mask"):
        PlainAttention()(nn.Identity(), torch.zeros(1, 2, 3), attention_mask=torch.zeros(1, 2))


def test_quickening_keeps_parameters():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    network.set_attn_processor = lambda processor: None
    weight = network[0].weight
    assert quicken(network)[0].weight is weight
