"""Position embeddings."""

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
