"""Autoregressive transformer decoder: predicts the code of each place from the slots and the codes before it."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from object_centric_bench.model.attention import attend
from object_centric_bench.model.position import LearnedPosition
from object_centric_bench.model.sizes import require_heads, require_shape
from object_centric_bench.registry import register


class Attention(nn.Module):
    """Multi-head attention without biases: of tokens to themselves, or to a context."""

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)  # query, key and value stacked
        self.to_out = nn.Linear(dim, dim, bias=False)
        nn.init.xavier_uniform_(self.to_qkv.weight)

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        """Attend from tokens (b n d) to a context (b s d), or without one causally to the tokens up to each."""
        query, key, value = self.project(tokens, context)
        return self.mix(query, key, value, causal=context is None)

    def with_weights(self, tokens: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`; also return the weights of the context (b n s) float, mean over heads, sums to 1 over s."""
        query, key, value = self.project(tokens, context)
        logits = torch.einsum("bmnd, bmsd -> bmns", query * query.shape[-1] ** -0.5, key)
        weights = logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32)).mean(dim=1)
        return self.mix(query, key, value), weights

    def project(self, tokens: Tensor, context: Tensor | None) -> list[Tensor]:
        """Return query of tokens (b n d), key and value of a context (b s d) or the tokens too, by head (b m n d)."""
        if context is None:
            parts = self.to_qkv(tokens).chunk(3, dim=-1)
        else:
            dim = tokens.shape[-1]
            query = functional.linear(tokens, self.to_qkv.weight[:dim])
            parts = query, *functional.linear(context, self.to_qkv.weight[dim:]).chunk(2, dim=-1)
        return [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts]

    def mix(self, query: Tensor, key: Tensor, value: Tensor, causal: bool = False) -> Tensor:
        """Let queries take from values what their keys tell (b m n d), and join the heads (b n d)."""
        mixed = attend(query, key, value, causal=causal, dropout=self.dropout if self.training else 0.0)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Causal self-attention, attention to the slots, MLP; each normed before and added after.

    Args:
        dim, num_heads, dropout: of both attentions.
        hidden_dim: of the MLP.
        first: the first block gets tokens that the decoder has normed already, as in SLATE.
        bias: of norms and MLP.
        activation: of the MLP, "gelu" (exact) or "relu".
    """

    compiled_methods = ("forward", "with_mask")  # where blocks are compiled one by one

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        dropout: float,
        first: bool,
        bias: bool = False,
        activation: str = "gelu",
    ):
        super().__init__()
        self.norm_self = nn.Identity() if first else nn.LayerNorm(dim, bias=bias)
        self.self_attention = Attention(dim, num_heads, dropout)
        self.norm_cross = nn.LayerNorm(dim, bias=bias)
        self.cross_attention = Attention(dim, num_heads, dropout)
        self.norm_mlp = nn.LayerNorm(dim, bias=bias)
        self.mlp_in = nn.Linear(dim, hidden_dim, bias=bias)
        self.activation = {"gelu": functional.gelu, "relu": functional.relu}[activation]
        self.mlp_out = nn.Linear(hidden_dim, dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, slots: Tensor) -> Tensor:
        """Update tokens (b n d) from the ones before them and from slots (b s d)."""
        tokens = self.look_back(tokens)
        return self.add(tokens, self.cross_attention(self.norm_cross(tokens), slots))

    def with_mask(self, tokens: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`; also return the attention to the slots: (b n s) float, mean over heads, sums to 1 over s."""
        tokens = self.look_back(tokens)
        read, mask = self.cross_attention.with_weights(self.norm_cross(tokens), slots)
        return self.add(tokens, read), mask

    def look_back(self, tokens: Tensor) -> Tensor:
        """Update tokens (b n d) from the ones before them."""
        return tokens + self.dropout(self.self_attention(self.norm_self(tokens)))

    def add(self, tokens: Tensor, read: Tensor) -> Tensor:
        """Update tokens (b n d) by what they read from the slots (b n d) and by the MLP."""
        tokens = tokens + self.dropout(read)
        hidden = self.dropout(self.activation(self.mlp_in(self.norm_mlp(tokens))))
        return tokens + self.dropout(self.mlp_out(hidden))


def decode_with_mask(layers: Iterable[Block], tokens: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Run the blocks of a transformer; also return the last one's attention to the slots.

    Args:
        layers: the blocks.
        tokens: (b n d) float.
        slots: (b s d) float.

    Returns:
        tokens: (b n d) float.
        mask: (b n s) float, mean over heads, sums to 1 over s.
    """
    *layers, last = layers
    for layer in layers:
        tokens = layer(tokens, slots)
    return last.with_mask(tokens, slots)


@register
class AutoregressiveTransformer(nn.Module):
    """Transformer decoder over the grid of codes in raster order, teacher-forced.

    Singh et al., ICLR 2022 (SLATE), as in the reference: frozen code vectors are the token embeddings, slots are used
    raw, and there is neither bias nor final norm. Deviation: layers start independently, not as copies of one.

    Args:
        grid: [h, w] of the codes.
        dim: width of tokens and slots.
        num_codes: classes that are predicted.
        num_layers, num_heads, dropout: of the transformer.
        hidden_dim: of its MLPs; None means `4 * dim`.
        position: embeds the places; None = vectors that start at random, as in the reference.
        token_dropout: probability, in training, of reading zeros in place of a code vector, so that slots are needed;
            1 reads none. Bowman et al., CoNLL 2016 (word dropout). The reference has none.

    Raises:
        ValueError: `dim` is no multiple of `num_heads`, or `token_dropout` is no probability.
    """

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
        token_dropout: float = 0.0,
    ):
        super().__init__()
        require_heads(dim, num_heads)
        if not 0 <= token_dropout <= 1:
            raise ValueError(f"token_dropout is a probability, got {token_dropout}")
        self.token_dropout = token_dropout
        self.grid, self.dim, self.num_codes = list(grid), dim, num_codes
        self.start = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5)
        self.position = LearnedPosition(grid[0] * grid[1], dim) if position is None else position
        self.norm = nn.LayerNorm(dim, bias=False)
        self.layers = nn.ModuleList(
            Block(dim, num_heads, hidden_dim or 4 * dim, dropout, first=index == 0) for index in range(num_layers)
        )
        self.head = nn.Linear(dim, num_codes, bias=False)

    def forward(self, quantized: Tensor, slots: Tensor) -> Tensor:
        """Predict codes.

        Args:
            quantized: (b d h w) float, code vectors; place i is predicted from those before i.
            slots: (b s d) float.

        Returns:
            (b k h w) float, logits.

        Raises:
            ValueError: another grid or width than configured.
        """
        require_shape("quantized", quantized, (None, self.dim, *self.grid))
        require_shape("slots", slots, (quantized.shape[0], None, self.dim))
        tokens = self.drop_tokens(quantized.flatten(2).transpose(1, 2))  # b n d
        start = self.start.expand(len(tokens), -1, -1)
        tokens = self.norm(self.position(torch.cat([start, tokens[:, :-1]], dim=1)))
        for layer in self.layers:
            tokens = layer(tokens, slots)
        return self.head(tokens).transpose(1, 2).unflatten(2, self.grid)

    def drop_tokens(self, tokens: Tensor) -> Tensor:
        """Put zeros in place of some tokens (b n d), drawn one by one, in training."""
        if not self.training or self.token_dropout == 0:
            return tokens
        kept = torch.rand(tokens.shape[:2], device=tokens.device) >= self.token_dropout
        return tokens * kept[:, :, None]
