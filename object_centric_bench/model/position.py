"""Position embeddings."""

import math

import torch
from torch import Tensor, nn

from object_centric_bench.registry import register


@register
class LearnedPosition(nn.Module):
    """One trained vector per place of a sequence, added to what stands there.

    Starts from a normal distribution of standard deviation 1 cut at +-2, as in the reference.
    """

    def __init__(self, length: int, dim: int):
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(1, length, dim))
        nn.init.trunc_normal_(self.embedding)

    def forward(self, tokens: Tensor) -> Tensor:
        """Add positions to tokens (b n d); a shorter sequence takes the first ones.

        Raises:
            ValueError: the sequence is longer than the table, or of another width.
        """
        if tokens.shape[1] > self.embedding.shape[1] or tokens.shape[2] != self.embedding.shape[2]:
            raise ValueError(f"tokens {tuple(tokens.shape)} do not fit positions {tuple(self.embedding.shape)}")
        return tokens + self.embedding[:, : tokens.shape[1]]


@register
class FourierPosition(LearnedPosition):
    """Trained vectors for the places of a grid that start from sines and cosines of y and x.

    Neighbours start alike, so a decoder need not learn first which places lie together; with few training steps that
    decides (docs/results.md). Frequencies rise geometrically from half a wave per side to one wave per two places;
    Vaswani et al., NeurIPS 2017, in two dimensions.

    Args:
        grid: [h, w].
        dim: channels, a multiple of 4.

    Raises:
        ValueError: dim is no multiple of 4.
    """

    def __init__(self, grid: list[int], dim: int):
        if dim % 4:
            raise ValueError(f"dim must be a multiple of 4 for sines and cosines of y and x, got {dim}")
        super().__init__(grid[0] * grid[1], dim)
        y, x = (waves(side, dim // 4) for side in grid)  # h d/2, w d/2
        start = torch.cat([y[:, None].expand(-1, grid[1], -1), x.expand(grid[0], -1, -1)], dim=-1)
        self.embedding.data.copy_(start.flatten(0, 1))


def waves(length: int, count: int) -> Tensor:
    """Return sines and cosines (n 2c) of `count` frequencies at `length` places, each of variance about 0.7."""
    place = (torch.arange(length) + 0.5) / length
    frequency = math.pi * torch.logspace(0, math.log2(max(length / 2, 1)), count, base=2)
    return 1.2 * torch.cat([torch.sin(place[:, None] * frequency), torch.cos(place[:, None] * frequency)], dim=1)


@register
class Positioned(nn.Module):
    """A projection of tokens, to which positions are added: for backbones whose features do not tell where they are.

    Locatello et al., NeurIPS 2020, add positions in the same place.

    Args:
        projection: maps tokens to a new width.
        position: adds positions of that width.
    """

    def __init__(self, projection: nn.Module, position: nn.Module):
        super().__init__()
        self.projection, self.position = projection, position
        self.input_dim, self.dim = projection.input_dim, projection.dim

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (b n c) float to (b n d) float."""
        return self.position(self.projection(tokens))
