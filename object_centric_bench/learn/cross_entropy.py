"""Cross-entropy over many classes without a copy of the logits in full precision."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 2**26  # logits held in full precision at once: 256 MiB in float32
CPU_CHUNK_ELEMENTS = 2**19  # 2 MiB, what the caches of a core hold


def mean_cross_entropy(logits: Tensor, code: Tensor) -> Tensor:
    """Return the mean cross-entropy, computed in float32 (float64 for such logits) chunk by chunk.

    PyTorch's would keep float32 logits and log-probabilities until the backward pass and make a float32 gradient
    besides; this keeps the logits as they are.

    Args:
        logits: (n k) float.
        code: (n) int64, below k.

    Returns:
        scalar, at least float32.
    """
    return _MeanCrossEntropy.apply(logits, code)


class _MeanCrossEntropy(torch.autograd.Function):
    """Mean over rows of the cross-entropy, and its gradient: probabilities less one at the true class."""

    @staticmethod
    def forward(ctx, logits: Tensor, code: Tensor) -> Tensor:
        """Return the mean, a scalar."""
        ctx.save_for_backward(logits, code)
        precise = torch.promote_types(logits.dtype, torch.float32)
        sums = [F.cross_entropy(logits[rows].to(precise), code[rows], reduction="sum") for rows in _chunks(logits)]
        return torch.stack(sums).sum() / len(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the logits, in their precision."""
        logits, code = ctx.saved_tensors
        factor = gradient / len(logits)  # holds the factor of a gradient scaler too, so that half precision suffices
        result = torch.empty_like(logits)
        for rows in _chunks(logits):
            probability = logits[rows].to(factor.dtype).softmax(dim=1)
            probability.scatter_add_(1, code[rows, None], probability.new_full((len(probability), 1), -1.0))
            result[rows] = probability.mul_(factor)
        return result, None


def _chunks(logits: Tensor) -> Iterator[slice]:
    limit = CPU_CHUNK_ELEMENTS if logits.device.type == "cpu" else CHUNK_ELEMENTS
    size = max(1, limit // logits.shape[1])
    for start in range(0, len(logits), size):
        yield slice(start, start + size)
