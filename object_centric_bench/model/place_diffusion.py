"""A diffusion decoder for short runs: every place of the latent is denoised by itself, instead of by a UNet."""

import math

import torch
from torch import Tensor, nn

from object_centric_bench.model.attention import attend
from object_centric_bench.model.diffusion import Denoising
from object_centric_bench.model.mlp import MLP
from object_centric_bench.registry import register

LONGEST = 10_000  # of the waves that tell the step, in steps; that of Vaswani et al., NeurIPS 2017


@register
class PlaceDiffusionDecoder(Denoising):
    """Denoise latents place by place: each asks the slots once, and an MLP tells the noise. For demos, not published.

    A UNet sees a place's neighbours, and reads any slot from any place: for long, nothing asks that a slot be one
    object. Here only slots tell a place what its noise hides, and through one head it takes nearly all from one of
    them, as in a mixture decoder (docs/results.md).

    Args:
        grid, latent_dim, dim: see `Denoising`.
        position: adds positions of `width` channels to tokens (b n c).
        width: channels of the tokens.
        hidden_dim: of the MLP's two hidden layers.
        num_heads: of the attention to the slots.
        num_steps, beta_start, beta_end: see `Denoising`.

    Raises:
        ValueError: heads that do not divide the width, an odd width, no step, or variances that make no sense.
    """

    compiled_parts = ("denoiser",)  # steps and noise are drawn outside

    def __init__(
        self,
        grid: list[int],
        latent_dim: int,
        dim: int,
        position: nn.Module,
        width: int = 64,
        hidden_dim: int = 128,
        num_heads: int = 1,
        num_steps: int = 1000,
        beta_start: float = 0.0015,
        beta_end: float = 0.0195,
    ):
        super().__init__(grid, latent_dim, dim, num_steps, beta_start, beta_end)
        self.denoiser = PlaceDenoiser(latent_dim, dim, position, width, hidden_dim, num_heads)

    def denoise(self, noisy: Tensor, timestep: Tensor, slots: Tensor) -> Tensor:
        """See `Denoising`."""
        return self.denoiser(noisy, timestep, slots)


class PlaceDenoiser(nn.Module):
    """The network of `PlaceDiffusionDecoder`; arguments and errors as there."""

    def __init__(self, latent_dim: int, dim: int, position: nn.Module, width: int, hidden_dim: int, num_heads: int):
        super().__init__()
        if width % (2 * num_heads):
            raise ValueError(f"width must be a multiple of twice num_heads, got {width} and {num_heads}")
        self.num_heads = num_heads
        self.to_token = nn.Linear(latent_dim, width)
        self.position = position
        self.time = MLP([width, width, width], activation="silu")
        self.norm = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, width)
        self.to_key_value = nn.Linear(dim, 2 * width)
        self.to_noise = MLP([width, hidden_dim, hidden_dim, latent_dim])

    def forward(self, noisy: Tensor, timestep: Tensor, slots: Tensor) -> Tensor:
        """Return the noise (b c h w) in noisy latents (b c h w) after steps (b), given slots (b s d)."""
        grid = noisy.shape[2:]
        tokens = self.position(self.to_token(noisy.flatten(2).transpose(1, 2)))  # b n c
        tokens = tokens + self.time(step_waves(timestep, tokens.shape[2]).to(tokens.dtype))[:, None]
        parts = self.to_query(self.norm(tokens)), *self.to_key_value(slots).chunk(2, dim=-1)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)  # b m n d
        tokens = tokens + attend(query, key, value).transpose(1, 2).flatten(2)
        return self.to_noise(tokens).transpose(1, 2).unflatten(2, grid)


def step_waves(timestep: Tensor, width: int) -> Tensor:
    """Return cosines and sines (b c) float32 of diffusion steps (b); Ho et al., NeurIPS 2020, App. B."""
    frequency = torch.exp(torch.arange(width // 2, device=timestep.device) * (-2 * math.log(LONGEST) / width))
    angle = timestep[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)
