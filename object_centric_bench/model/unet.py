"""What makes diffusers' UNet fast on small latents: its attention and its convolutions by matrix products."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from object_centric_bench.model.attention import attend

SMALL_MAP = 16  # places; with so few a convolution's time goes into bringing its weights into the kernel's layout


class PlainAttention:
    """Attention of a UNet's transformer blocks: tokens to one another or to a context, without masks or norms.

    Stands in for diffusers' own processor, so that the faster way is taken, see `attend`.
    """

    def __call__(
        self,
        attention: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend; the names of the arguments are diffusers' own.

        Args:
            attention: diffusers' module, which holds the layers.
            hidden_states: (b n c) float, tokens.
            encoder_hidden_states: (b s d) float, a context; None means the tokens.
            attention_mask: must be None.

        Returns:
            (b n c) float.

        Raises:
            ValueError: there is a mask.
        """
        if attention_mask is not None:
            raise ValueError("this UNet's attention takes no mask")
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        parts = attention.to_q(hidden_states), attention.to_k(context), attention.to_v(context)
        query, key, value = (part.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for part in parts)  # b m n d
        mixed = attend(query, key, value).transpose(1, 2).flatten(2)
        project, dropout = attention.to_out  # type: ignore[misc]  # a list of two
        return dropout(project(mixed))


class SmallMapConv2d(nn.Conv2d):
    """A convolution that is a matrix product on a CPU where its output is small; the same numbers up to rounding.

    PyTorch's kernel copies the weights into another layout and back in every step; on 2x2 places with 512 channels
    that is 7 times as long as all the rest.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map (b c h w) float to (b d h' w') float."""
        grid = [
            (size + 2 * padding - kernel) // stride + 1
            for size, padding, kernel, stride in zip(
                input.shape[2:], self.padding, self.kernel_size, self.stride, strict=True
            )
        ]
        if input.device.type != "cpu" or grid[0] * grid[1] > SMALL_MAP:
            return super().forward(input)
        patches = functional.unfold(input, self.kernel_size, padding=self.padding, stride=self.stride)  # b ckk n
        places = functional.linear(patches.transpose(1, 2), self.weight.flatten(1), self.bias)  # b n d
        return places.transpose(1, 2).unflatten(2, grid)


def quicken(unet: nn.Module) -> nn.Module:
    """Give diffusers' UNet (no masks, no norms inside attention) these parts; parameters and their names stay."""
    unet.set_attn_processor(PlainAttention())
    for parent in list(unet.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Conv2d:
                setattr(parent, name, _with_parameters_of(child))
    return unet


def _with_parameters_of(convolution: nn.Conv2d) -> SmallMapConv2d:
    with torch.device("meta"):
        other = SmallMapConv2d(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,
            convolution.stride,
            convolution.padding,
            bias=convolution.bias is not None,
        )
    other.weight, other.bias = convolution.weight, convolution.bias
    return other
