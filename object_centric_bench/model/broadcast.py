"""Spatial-broadcast mixture decoder: every slot paints the whole grid, a softmax over slots blends the paintings."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from object_centric_bench.model.position import LearnedPosition
from object_centric_bench.model.sizes import require_shape
from object_centric_bench.model.slot_attention import share_among_slots
from object_centric_bench.registry import register


@register
class BroadcastMLP(nn.Module):
    """Decode slots to a feature map by an MLP at every place.

    Seitzer et al., ICLR 2023 (DINOSAUR), Sec. 3; GELU instead of ReLU, as in the reference.

    Args:
        grid: [h, w] of the map.
        dims: widths: of slots, hidden layers, and the map; a mask logit is added to the last.
        position: embeds the places; None = vectors that start at random, as in the reference.
    """

    def __init__(self, grid: list[int], dims: list[int], position: nn.Module | None = None):
        super().__init__()
        if len(dims) < 2:
            raise ValueError(f"dims names at least the slots' and the map's width, got {dims}")
        self.grid, self.dim, self.output_dim = list(grid), dims[0], dims[-1]
        self.position = LearnedPosition(grid[0] * grid[1], dims[0]) if position is None else position
        dims = [*dims[:-1], dims[-1] + 1]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(dims))

    def forward(self, slots: Tensor, slot_valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            slots: (b s d) float.
            slot_valid: (b s) bool, False keeps a slot out of the blend; None means all are valid.

        Returns:
            reconstruction: (b c h w) float.
            mask: (b s h w) float, sums to 1 over s.
        """
        require_shape("slots", slots, (None, None, self.dim))
        first = self.layers[0]
        # The first layer is linear: it maps slots and positions apart, b s + n vectors instead of b s n.
        of_slots = first(slots)  # b s c
        of_places = functional.linear(self.position.embedding[0], first.weight)  # n c
        hidden = of_slots[:, :, None] + of_places  # b s n c
        for layer in self.layers[1:]:
            hidden = layer(functional.gelu(hidden))
        painting, logits = hidden[..., :-1], hidden[..., -1]
        mask = share_among_slots(logits, slot_valid)  # b s n
        reconstruction = torch.einsum("bsn, bsnc -> bcn", mask.to(painting.dtype), painting)
        return reconstruction.unflatten(2, self.grid), mask.unflatten(2, self.grid)
