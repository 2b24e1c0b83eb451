"""Slot mixer: every place attends to the slots and is decoded once from their mixture; and the block it is made of."""

import torch
from torch import Tensor, nn

from object_centric_bench.model.attention import attend
from object_centric_bench.model.mlp import MLP
from object_centric_bench.model.position import LearnedPosition
from object_centric_bench.model.sizes import require_heads, require_shape
from object_centric_bench.model.slot_attention import share_among_slots
from object_centric_bench.registry import register


@register
class PreNormBlock(nn.Module):
    """One transformer layer, normed before attention and MLP: of tokens among themselves, or to a context.

    Zadaianchuk et al., NeurIPS 2023 (VideoSAUR). Among the slots of a frame it predicts those of the next; of places
    to slots it is a layer of `SlotMixer`.

    Args:
        dim: width of tokens and context.
        num_heads: of the attention.
        hidden_dim: of the ReLU MLP; None means `4 * dim`.
        published_scale: multiply queries by the root of a head's width, as the published code does, not divide by it.

    Raises:
        ValueError: dim is no multiple of num_heads.
    """

    def __init__(self, dim: int, num_heads: int = 4, hidden_dim: int | None = None, published_scale: bool = False):
        super().__init__()
        require_heads(dim, num_heads)
        self.dim, self.num_heads = dim, num_heads
        self.scale = (dim // num_heads) ** (0.5 if published_scale else -0.5)
        self.norm_attention = nn.LayerNorm(dim)
        self.to_query, self.to_key, self.to_value = (nn.Linear(dim, dim) for _ in range(3))
        self.to_out = nn.Linear(dim, dim)
        self.mlp = MLP([dim, hidden_dim or 4 * dim, dim], norm=True, activation="relu")
        for layer in (self.to_query, self.to_key, self.to_value):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        """Update tokens (b n d) float from one another, or from a context (b s d) float that is taken as it is."""
        require_shape("tokens", tokens, (None, None, self.dim))
        normed = self.norm_attention(tokens)
        tokens = tokens + self.attend(normed, normed if context is None else context)
        return tokens + self.mlp(tokens)

    def attend(self, tokens: Tensor, context: Tensor) -> Tensor:
        """Return what tokens (b n d) take from a context (b s d) by attention in several heads."""
        parts = self.to_query(tokens), self.to_key(context), self.to_value(context)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)  # b m n d/m
        mixed = attend(query, key, value, scale=self.scale)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


@register
class SlotMixer(nn.Module):
    """Decode slots to a feature map: one decoder pass per place instead of one per slot and place.

    Zadaianchuk et al., NeurIPS 2023 (VideoSAUR), Sec. 3 and appendix: an allocator lets places look at the slots, one
    attention over the slots weighs them for every place, and an MLP decodes each place's weighted mean of slots. After
    Sajjadi et al., NeurIPS 2022 (OSRT).

    Args:
        grid: [h, w] of the map.
        dims: widths: of slots, hidden layers, and the map.
        num_layers, num_heads: of the allocator.
        published_scale: of the allocator's attention; see `PreNormBlock`.
        position: embeds the places; None = trained vectors from a normal distribution of deviation dim ** -0.5.

    Raises:
        ValueError: fewer than two widths, or the slots' is no multiple of num_heads.
    """

    def __init__(
        self,
        grid: list[int],
        dims: list[int],
        num_layers: int = 2,
        num_heads: int = 4,
        published_scale: bool = False,
        position: nn.Module | None = None,
    ):
        super().__init__()
        self.renderer = MLP(dims, activation="relu")
        self.grid, self.dim, self.output_dim = list(grid), dims[0], dims[-1]
        if position is None:
            position = LearnedPosition(grid[0] * grid[1], self.dim)
            nn.init.normal_(position.embedding, std=self.dim**-0.5)
        self.position = position
        self.norm_memory = nn.LayerNorm(self.dim)
        self.allocator = nn.ModuleList(
            PreNormBlock(self.dim, num_heads, published_scale=published_scale) for _ in range(num_layers)
        )
        self.norm_query, self.norm_key = nn.LayerNorm(self.dim), nn.LayerNorm(self.dim)
        self.to_query = nn.Linear(self.dim, self.dim, bias=False)
        self.to_key = nn.Linear(self.dim, self.dim, bias=False)
        for layer in (self.to_query, self.to_key, self.renderer.layers[-1]):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(self.renderer.layers[-1].bias)

    def allocate(self, slots: Tensor) -> Tensor:
        """Return a query (b n d) for every place, which has looked at the slots (b s d)."""
        memory = self.norm_memory(slots)
        query = self.position.embedding.expand(len(slots), -1, -1)
        for block in self.allocator:
            query = block(query, memory)
        return query

    def forward(self, slots: Tensor, slot_valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            slots: (b s d) float.
            slot_valid: (b s) bool, False keeps a slot out of the mixture; the allocator still sees it. None means all
                are valid.

        Returns:
            reconstruction: (b c h w) float.
            mask: (b s h w) float, the weights of the mixture, sums to 1 over s.
        """
        require_shape("slots", slots, (None, None, self.dim))
        query = self.to_query(self.norm_query(self.allocate(slots)))  # b n d
        key = self.to_key(self.norm_key(slots))  # b s d
        logits = torch.einsum("bsd, bnd -> bsn", key * self.dim**-0.5, query)
        mask = share_among_slots(logits, slot_valid)  # b s n
        mixed = torch.einsum("bsn, bsd -> bnd", mask.to(slots.dtype), slots)  # the slots themselves, not projected
        reconstruction = self.renderer(self.position(mixed)).transpose(1, 2)  # b c n
        return reconstruction.unflatten(2, self.grid), mask.unflatten(2, self.grid)
