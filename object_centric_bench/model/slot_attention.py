"""Slot attention."""

import torch
from torch import Tensor, einsum, nn

from object_centric_bench.model.mlp import MLP, zero_biases
from object_centric_bench.model.sizes import require_shape
from object_centric_bench.registry import register


@register
class SlotAttention(nn.Module):
    """Slots compete for tokens; each slot is then updated from the tokens it won.

    Locatello et al., NeurIPS 2020, Algorithm 1. Deviations, all of the reference: epsilon stands in the denominator
    of the weighted mean only, the MLP uses GELU and dropout, biases start at zero, and with `bilevel` the gradient
    passes the last iteration only and goes straight through to the initial slots (Jia et al., ICLR 2023, BO-QSA).

    Args:
        dim: width of slots, queries, keys and values.
        input_dim: width of the tokens; None means `dim`.
        hidden_dim: of the slots' MLP; None means `4 * dim`, 0 leaves it out.
        num_iterations: at least 1.
        first_iterations: in the first frame of a video; None means `num_iterations`.
        normalize_state: the GRU updates the normed slots instead of the slots (VideoSAUR).
        bilevel: truncate the gradient as above.
        dropout: probability inside the MLP.
        epsilon: added to the sum of a slot's attention.
        activation: of the MLP, see `MLP`.
    """

    compiled_methods = ("embed", "refine_with_logits")

    def __init__(
        self,
        dim: int,
        input_dim: int | None = None,
        hidden_dim: int | None = None,
        num_iterations: int = 3,
        bilevel: bool = True,
        dropout: float = 0.01,
        epsilon: float = 1e-5,
        first_iterations: int | None = None,
        normalize_state: bool = False,
        activation: str = "gelu",
    ):
        super().__init__()
        if num_iterations < 1:
            raise ValueError(f"num_iterations is at least 1, got {num_iterations}")
        if first_iterations is not None and first_iterations < 1:
            raise ValueError(f"first_iterations is at least 1, got {first_iterations}")
        self.dim, self.input_dim = dim, input_dim or dim
        self.num_iterations, self.first_iterations = num_iterations, first_iterations
        self.normalize_state = normalize_state
        self.bilevel = bilevel
        self.epsilon = epsilon
        self.norm_tokens = nn.LayerNorm(self.input_dim)
        self.to_key = nn.Linear(self.input_dim, dim, bias=False)
        self.to_value = nn.Linear(self.input_dim, dim, bias=False)
        self.norm_slots = nn.LayerNorm(dim)
        self.to_query = nn.Linear(dim, dim, bias=False)
        self.gru = nn.GRUCell(dim, dim)
        self.mlp = None
        if hidden_dim != 0:
            dims = [dim, hidden_dim or 4 * dim, dim]
            self.mlp = MLP(dims, norm=True, activation=activation, dropout=dropout)
        zero_biases(self)

    def forward(
        self,
        tokens: Tensor,
        slots: Tensor,
        num_iterations: int | None = None,
        slot_valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Refine initial slots.

        Args:
            tokens: (b n c) float.
            slots: (b s d) float, initial slots.
            num_iterations: instead of the configured number.
            slot_valid: (b s) bool, False takes a slot out of the competition; None means all are valid.

        Returns:
            slots: (b s d) float.
            attention: (b s n) float of the last iteration, sums to 1 over s.

        Raises:
            ValueError: a shape does not fit, or fewer than one iteration.
        """
        return self.refine(slots, *self.embed(tokens), num_iterations, slot_valid)

    def embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Norm tokens (b n c) and project them to key and value (b n d): what all iterations share."""
        require_shape("tokens", tokens, (None, None, self.input_dim))
        tokens = self.norm_tokens(tokens)
        return self.to_key(tokens), self.to_value(tokens)

    def refine(
        self,
        slots: Tensor,
        key: Tensor,
        value: Tensor,
        num_iterations: int | None = None,
        slot_valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Refine initial slots (b s d) by key and value (b n d) from `embed`; otherwise like `forward`."""
        slots, attention, _ = self.refine_with_logits(slots, key, value, num_iterations, slot_valid)
        return slots, attention

    def refine_with_logits(
        self,
        slots: Tensor,
        key: Tensor,
        value: Tensor,
        num_iterations: int | None = None,
        slot_valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `refine`; also return the logits (b s n) float whose softmax over s is the attention."""
        iterations = self.num_iterations if num_iterations is None else num_iterations
        if iterations < 1:
            raise ValueError(f"num_iterations is at least 1, got {iterations}")
        require_shape("slots", slots, (key.shape[0], None, self.dim))
        initial = slots
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.bilevel):
            for _ in range(iterations - 1):
                slots, _, _ = self.iterate(slots, key, value, slot_valid)
        if self.bilevel:
            slots = slots.detach() + (initial - initial.detach())  # the bracket is exactly zero; gradient to initial
        return self.iterate(slots, key, value, slot_valid)

    def iterate(
        self, slots: Tensor, key: Tensor, value: Tensor, slot_valid: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one iteration: lines 5 to 10 of the algorithm."""
        normed = self.norm_slots(slots)
        query = self.to_query(normed)  # b s d
        logits = einsum("bsd, bnd -> bsn", query * self.dim**-0.5, key)
        attention = share_among_slots(logits, slot_valid)
        weight = attention / (attention.sum(dim=2, keepdim=True) + self.epsilon)  # over tokens
        update = einsum("bsn, bnd -> bsd", weight.to(value.dtype), value)
        # The state of the recurrence keeps its precision under autocast, where the GRU hands out half precision.
        state = normed.to(slots.dtype) if self.normalize_state else slots
        slots = self.gru(update.flatten(0, 1).to(slots.dtype), state.flatten(0, 1)).view_as(slots).to(slots.dtype)
        return (slots if self.mlp is None else slots + self.mlp(slots)), attention, logits


def share_among_slots(logits: Tensor, slot_valid: Tensor | None = None) -> Tensor:
    """Return the softmax over slots of logits (b s n), at least in float32 also under autocast on any device.

    Invalid slots, False in `slot_valid` (b s) bool, get nothing.
    """
    if slot_valid is not None:
        logits = logits.masked_fill(~slot_valid[:, :, None], float("-inf"))
    return logits.softmax(dim=1, dtype=torch.promote_types(logits.dtype, torch.float32))


def group(
    feature: Tensor, projection: nn.Module, slots: Tensor, slot_attention: SlotAttention
) -> tuple[Tensor, Tensor]:
    """Let initial slots compete for the places of a feature map.

    Args:
        feature: (b c h w) float.
        projection: maps features to the tokens of slot attention.
        slots: (b s d) float, initial slots.
        slot_attention: refines them.

    Returns:
        slots: (b s d) float.
        attention: (b s h w) float, sums to 1 over s.
    """
    tokens = projection(feature.flatten(2).transpose(1, 2))  # b n d
    slots, attention = slot_attention(tokens, slots)
    return slots, attention.unflatten(2, feature.shape[2:])
