"""Cross-entropy over many classes without a copy of the logits in full precision."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 2**26  # logits held in full precision at once: 256 MiB in float32
CPU_CHUNK_ELEMENTS = 2**19  # 2 MiB, what the caches of a core hold


def mean_cross_entropy(logits: Tensor, code: Tensor) -> Tensor:
    """Return the mean cross-entropy, computed in float32 (float64 for such logits) chunk by chunk.

    PyTorch's would keep float32 logits and log-probabilities until the backward pass and make a float32 gradient
    besides; this keeps one tensor of the logits' size and precision.

    Args:
        logits: (n k) float.
        code: (n) int64, below k.

    Returns:
        scalar, at least float32.
    """
    return _MeanCrossEntropy.apply(logits, code)


class _MeanCrossEntropy(torch.autograd.Function):
    """Mean over rows of the cross-entropy, and its gradient: probabilities less one at the true class.

    Both come from one softmax, so that every logit is exponentiated once: the probabilities are kept in place of the
    logits, in their precision.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, code: Tensor) -> Tensor:
        """Return the mean, a scalar."""
        precise = torch.promote_types(logits.dtype, torch.float32)
        error = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        sums = []
        for rows in _chunks(logits):
            part, true = logits[rows].to(precise), code[rows, None]
            probability = part.softmax(dim=1)
            # The largest probability is at least 1 / k, so its logarithm is exact where that of the true one is not.
            log_total = part.amax(dim=1) - probability.amax(dim=1).log()
            sums.append((log_total - part.gather(1, true)[:, 0]).sum())
            if error is not None:
                error[rows] = probability.scatter_add_(1, true, probability.new_full(true.shape, -1.0))
        ctx.save_for_backward(error)
        ctx.precise = precise
        return torch.stack(sums).sum() / len(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the logits, in their precision."""
        (error,) = ctx.saved_tensors
        return error * (gradient / len(error)).to(ctx.precise), None


def _chunks(logits: Tensor) -> Iterator[slice]:
    limit = CPU_CHUNK_ELEMENTS if logits.device.type == "cpu" else CHUNK_ELEMENTS
    size = max(1, limit // logits.shape[1])
    for start in range(0, len(logits), size):
        yield slice(start, start + size)
