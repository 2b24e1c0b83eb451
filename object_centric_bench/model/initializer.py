"""Initial slots."""

import math

import torch
from torch import Tensor, nn

from object_centric_bench.model.mlp import MLP
from object_centric_bench.model.sizes import require_shape
from object_centric_bench.registry import register


@register
class PerSlotGaussian(nn.Module):
    """One trained Gaussian per slot, sampled in training; in eval mode its mean, so that evaluation is deterministic.

    Jia et al., ICLR 2023 (BO-QSA), learned slot queries; the noise around them is the reference's.

    Args:
        num_slots: number of Gaussians.
        dim: their channels.
        std: standard deviation to start from; None = dim ** -0.5, as in the reference.
    """

    def __init__(self, num_slots: int, dim: int, std: float | None = None):
        super().__init__()
        if num_slots < 1:
            raise ValueError(f"num_slots is at least 1, got {num_slots}")
        if std is not None and std <= 0:
            raise ValueError(f"std must be positive, got {std}")
        self.num_slots, self.dim = num_slots, dim
        self.mean = nn.Parameter(torch.empty(1, num_slots, dim))
        self.log_std = nn.Parameter(torch.full((1, num_slots, dim), math.log(std or dim**-0.5)))
        nn.init.xavier_uniform_(self.mean[0])

    def forward(self, batch_size: int) -> Tensor:
        """Return initial slots (b s d) float."""
        mean = self.mean.expand(batch_size, -1, -1)
        if not self.training:
            return mean
        return mean + self.log_std.exp() * torch.randn_like(mean)


@register
class LearnedSlots(nn.Module):
    """One trained vector per slot, without noise (Jia et al., ICLR 2023, BO-QSA).

    Args:
        num_slots: number of vectors.
        dim: their channels.
    """

    def __init__(self, num_slots: int, dim: int):
        super().__init__()
        if num_slots < 1:
            raise ValueError(f"num_slots is at least 1, got {num_slots}")
        self.num_slots, self.dim = num_slots, dim
        self.vectors = nn.Parameter(torch.empty(1, num_slots, dim))
        nn.init.xavier_uniform_(self.vectors[0])

    def forward(self, batch_size: int) -> Tensor:
        """Return initial slots (b s d) float."""
        return self.vectors.expand(batch_size, -1, -1)


@register
class SharedGaussian(nn.Module):
    """One trained Gaussian for all slots, sampled in training and in evaluation: identical slots could not separate.

    Locatello et al., NeurIPS 2020. The number of slots may be chosen anew in every call.

    Args:
        num_slots: number of slots.
        dim: their channels.
        std: standard deviation to start from, around a mean of zero (VideoSAUR: dim ** -0.5); None = what Xavier's
            rule gives for mean and log_std.
    """

    def __init__(self, num_slots: int, dim: int, std: float | None = None):
        super().__init__()
        if num_slots < 1:
            raise ValueError(f"num_slots is at least 1, got {num_slots}")
        if std is not None and std <= 0:
            raise ValueError(f"std must be positive, got {std}")
        self.num_slots, self.dim = num_slots, dim
        self.mean = nn.Parameter(torch.empty(1, 1, dim))
        self.log_std = nn.Parameter(torch.empty(1, 1, dim))
        bound = math.sqrt(3 / dim)  # what Xavier's rule gives for this shape in the reference
        nn.init.uniform_(self.mean, -bound, bound)
        nn.init.uniform_(self.log_std, -bound, bound)
        if std is not None:
            nn.init.zeros_(self.mean)
            nn.init.constant_(self.log_std, math.log(std))

    def forward(self, batch_size: int, num_slots: int | None = None) -> Tensor:
        """Return initial slots (b s d) float."""
        mean = self.mean.expand(batch_size, num_slots or self.num_slots, -1)
        return mean + self.log_std.exp() * torch.randn_like(mean)


@register
class BoxMLP(nn.Module):
    """Slots from boxes of the first frame (Kipf et al., ICLR 2022, conditional SAVi).

    An empty box is four zeros; two of them give two equal slots, which stay equal in eval mode.

    Args:
        dim: width of the slots.
        hidden_dim: of the MLP; None means `dim`.
        keep_empty: let slots of empty boxes take part, too, as the published runs do, where they waste places of an
            image; False keeps them out of slot attention and out of what mixture decoders blend. Other slots and
            transformer decoders still see them.
    """

    needs_box = True  # is called with boxes; every other initializer with a batch size

    def __init__(self, dim: int, hidden_dim: int | None = None, keep_empty: bool = False):
        super().__init__()
        self.dim, self.keep_empty = dim, keep_empty
        self.mlp = MLP([4, hidden_dim or dim, dim])

    def forward(self, box: Tensor) -> Tensor:
        """Map boxes (b s 4) float, left, top, right, bottom in 0..1, to slots (b s d) float."""
        require_shape("box", box, (None, None, 4))
        return self.mlp(box)

    def valid(self, box: Tensor) -> Tensor | None:
        """Return which slots (b s) bool of boxes (b s 4) take part: none of empty boxes, but all if all are empty.

        None stands for all of all samples.
        """
        if self.keep_empty:
            return None
        filled = box.any(dim=2)
        return filled | ~filled.any(dim=1, keepdim=True)
