"""Autoregressive transformers that read the patches in nine orders: SPOT's of features, and one of codes."""

from math import sqrt

import torch
from torch import Tensor, nn

from object_centric_bench.model.autoregressive import AutoregressiveTransformer, Block, decode_with_mask
from object_centric_bench.model.mlp import zero_biases
from object_centric_bench.model.permutation import NUM_ORDERS, PatchOrders, shift
from object_centric_bench.model.sizes import require_heads, require_shape
from object_centric_bench.registry import register


@register
class SPOTDecoder(nn.Module):
    """Predicts features from the slots and the features before them, in one of nine orders.

    Kakogeorgiou et al., CVPR 2024 (SPOT). In the order p, the i-th step sees the slots and the features of the places
    p(1) to p(i - 1), after a start vector of that order, and predicts the feature of p(i). The mask is the last block's
    attention to the slots, mean over heads. Without `position` nothing but the features tells the places, as in the
    paper, where they are a vision transformer's.

    Args:
        grid: [h, w] of the features.
        dim: their channels, and the width of the transformer.
        slot_dim: width of the slots.
        num_layers, num_heads, dropout: of the transformer.
        hidden_dim: of its MLPs; None means `4 * dim`.
        bias: of its norms and MLPs.
        activation: of its MLPs, "relu" or "gelu".
        final_norm: norm the output.
        train_order, eval_order: "standard", "random" or "all"; see `PatchOrders`.
        position: embeds the places; None for nothing.
        xavier: draw the first weights as the paper's code does, see `initialize`, and start vectors of deviation 0.02;
            False as `AutoregressiveTransformer`, with dim ** -0.5.

    Raises:
        ValueError: `dim` is no multiple of `num_heads`, there is no layer, or a mode or activation is unknown.
    """

    compiled_parts = ("layers",)  # which know nothing of the order that is drawn

    def __init__(
        self,
        grid: list[int],
        dim: int,
        slot_dim: int,
        num_layers: int = 4,
        num_heads: int = 6,
        hidden_dim: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        activation: str = "relu",
        final_norm: bool = True,
        train_order: str = "random",
        eval_order: str = "standard",
        position: nn.Module | None = None,
        xavier: bool = True,
    ):
        super().__init__()
        require_heads(dim, num_heads)
        require_layers(num_layers)
        if activation not in ("relu", "gelu"):
            raise ValueError(f"activation is 'relu' or 'gelu', got {activation!r}")
        self.grid, self.dim, self.output_dim = list(grid), slot_dim, dim
        self.orders = PatchOrders(grid, train_order, eval_order)
        self.start = nn.Parameter((0.02 if xavier else dim**-0.5) * torch.randn(NUM_ORDERS, dim))
        self.to_token = nn.Linear(dim, dim, bias=False)
        self.norm_token = nn.LayerNorm(dim)
        self.to_memory = nn.Linear(slot_dim, dim, bias=False)
        self.norm_memory = nn.LayerNorm(dim)
        self.position = nn.Identity() if position is None else position
        self.norm = nn.LayerNorm(dim, bias=bias)  # the first block's: it replaces the stream
        self.layers = nn.ModuleList(
            Block(dim, num_heads, hidden_dim or 4 * dim, dropout, index == 0, bias, activation)
            for index in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(dim, bias=bias) if final_norm else nn.Identity()
        if xavier:
            self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """Draw weights by Xavier's rule, smaller ones where a layer adds to the stream, by Kaiming's before a ReLU."""
        zero_biases(self)
        for linear in (self.to_token, self.to_memory):
            nn.init.xavier_uniform_(linear.weight)
        gain = 1 / sqrt(3 * len(self.layers))
        for layer in self.layers:
            for attention in (layer.self_attention, layer.cross_attention):
                for weight in attention.to_qkv.weight.chunk(3):
                    nn.init.xavier_uniform_(weight)
                nn.init.xavier_uniform_(attention.to_out.weight, gain)
            nn.init.kaiming_uniform_(layer.mlp_in.weight, nonlinearity="relu")
            nn.init.xavier_uniform_(layer.mlp_out.weight, gain)

    def forward(self, feature: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Predict features.

        Args:
            feature: (b c h w) float; each is predicted from those before it, and no gradient reaches it.
            slots: (b s d) float.

        Returns:
            reconstruction: (b c h w) float.
            mask: (b s h w) float, sums to 1 over s.

        Raises:
            ValueError: another grid or width than configured.
        """
        require_shape("feature", feature, (None, self.output_dim, *self.grid))
        require_shape("slots", slots, (feature.shape[0], None, self.dim))
        memory = self.norm_memory(self.to_memory(slots))

        def decode_one(tokens: Tensor, index: int) -> tuple[Tensor, Tensor]:
            tokens = self.norm_token(self.to_token(shift(tokens, self.start[index])))
            tokens = add_position(tokens, self.position, self.orders, index)
            tokens, mask = decode_with_mask(self.layers, self.norm(tokens), memory)
            return self.final_norm(tokens), mask

        tokens = feature.detach().flatten(2).transpose(1, 2)  # b n c
        return to_maps(self.orders.decode(tokens, decode_one), self.grid)


@register
class NineOrderTransformer(AutoregressiveTransformer):
    """`AutoregressiveTransformer` in SPOT's nine orders, each with a start vector of its own; VVO-Tfd9's decoder.

    A step gets the position of the place that it predicts. In the standard order it is its base class to the bit.

    Args:
        grid, dim, num_codes, num_layers, num_heads, hidden_dim, dropout, position, token_dropout: see
            `AutoregressiveTransformer`.
        train_order, eval_order: "standard", "random" or "all"; see `PatchOrders`.

    Raises:
        ValueError: `dim` is no multiple of `num_heads`, there is no layer, or a mode is unknown.
    """

    compiled_parts = ("layers",)  # which know nothing of the order that is drawn

    def __init__(
        self,
        grid: list[int],
        dim: int,
        num_codes: int,
        num_layers: int = 4,
        num_heads: int = 4,
        hidden_dim: int | None = None,
        dropout: float = 0.0,
        position: nn.Module | None = None,
        train_order: str = "random",
        eval_order: str = "standard",
        token_dropout: float = 0.0,
    ):
        require_layers(num_layers)
        super().__init__(grid, dim, num_codes, num_layers, num_heads, hidden_dim, dropout, position, token_dropout)
        self.orders = PatchOrders(grid, train_order, eval_order)
        self.start = nn.Parameter(torch.randn(NUM_ORDERS, dim) * dim**-0.5)

    def forward(  # type: ignore[override]  # gives the mask as well
        self, quantized: Tensor, slots: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict codes.

        Args:
            quantized: (b d h w) float, code vectors; each place is predicted from those before it in the order.
            slots: (b s d) float.

        Returns:
            logits: (b k h w) float.
            mask: (b s h w) float, the last block's attention to the slots, sums to 1 over s.

        Raises:
            ValueError: another grid or width than configured.
        """
        require_shape("quantized", quantized, (None, self.dim, *self.grid))
        require_shape("slots", slots, (quantized.shape[0], None, self.dim))

        def decode_one(tokens: Tensor, index: int) -> tuple[Tensor, Tensor]:
            tokens = add_position(shift(tokens, self.start[index]), self.position, self.orders, index)
            tokens, mask = decode_with_mask(self.layers, self.norm(tokens), slots)
            return self.head(tokens), mask

        tokens = self.drop_tokens(quantized.flatten(2).transpose(1, 2))
        return to_maps(self.orders.decode(tokens, decode_one), self.grid)


def require_layers(num_layers: int) -> None:
    """Raise `ValueError` if there is no layer, whose attention to the slots gives the mask."""
    if num_layers < 1:
        raise ValueError(f"num_layers is at least 1, got {num_layers}")


def add_position(tokens: Tensor, position: nn.Module, orders: PatchOrders, index: int) -> Tensor:
    """Add to tokens (b n d) in an order the positions of the places that they predict."""
    if isinstance(position, nn.Identity):
        return tokens
    return orders.arrange(position(orders.restore(tokens, index)), index)


def to_maps(tokens: list[Tensor], grid: list[int]) -> tuple[Tensor, Tensor]:
    """Return two tensors (b n c) as maps (b c h w)."""
    first, second = (part.transpose(1, 2).unflatten(2, grid) for part in tokens)
    return first, second
