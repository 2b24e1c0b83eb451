"""Quantizers: continuous latents to the codes of a codebook."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from object_centric_bench.model.sizes import require_shape
from object_centric_bench.registry import register

CHUNK_ELEMENTS = 2**24  # similarities held at once: 64 MiB in float32
CPU_CHUNK_ELEMENTS = 2**20  # on a CPU, whose caches hold that much


def chi_std(dim: int) -> float:
    """Return the standard deviation of the chi distribution: of the length of a standard normal vector of `dim`."""
    mean = math.sqrt(2) * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2))
    return math.sqrt(dim - mean**2)


@torch.no_grad()
def choose_codes(latent: Tensor, codes: Tensor, logit_scale: float = 0.0) -> Tensor:
    """Pick a code per latent: the nearest one, or a draw that favours near ones.

    A draw samples from the softmax of `-logit_scale * distance / chi_std`, which is also the argmax of that plus
    Gumbel noise (Zhao et al.). Distances are float32 also under autocast; latents are taken in chunks.

    Args:
        latent: (n c) float.
        codes: (k c) float.
        logit_scale: inverse temperature of the draw; 0 picks the nearest code.

    Returns:
        (n) int64.
    """
    with torch.autocast(latent.device.type, enabled=False):
        chosen = []
        for part, difference in _half_distances(latent, codes):
            if logit_scale > 0:
                chosen.append(_draw(_logits(part, difference, logit_scale)))
            else:
                chosen.append(difference.argmin(dim=1))
    return torch.cat(chosen)


@torch.no_grad()
def match_codes(latent: Tensor, codes: Tensor, logit_scale: float = 0.0) -> tuple[Tensor, Tensor]:
    """Pick a code per latent as `choose_codes` does, and tell how probable it is.

    The probability is that of the softmax over `-distance / chi_std`, or, for draws, over the scaled and noisy logits,
    in which case it is a draw itself.

    Args:
        latent: (n c) float.
        codes: (k c) float.
        logit_scale: inverse temperature of the draw; 0 picks the nearest code.

    Returns:
        code: (n) int64.
        probability: (n) float in (0, 1].
    """
    codes_of_parts, probabilities = [], []
    with torch.autocast(latent.device.type, enabled=False):
        for part, difference in _half_distances(latent, codes):
            logits = _logits(part, difference, logit_scale if logit_scale > 0 else 1.0)
            if logit_scale > 0:
                logits -= _minus_gumbel(logits)
            best, code = logits.max(dim=1, keepdim=True)
            codes_of_parts.append(code[:, 0])
            probabilities.append(logits.sub_(best).exp_().sum(dim=1).reciprocal_())  # softmax at its largest logit
    return torch.cat(codes_of_parts), torch.cat(probabilities)


def _half_distances(latent: Tensor, codes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield chunks (n c) of latents and half their squared distance (n k) to codes, less a constant per latent."""
    latent, codes = latent.float(), codes.float()
    half_square = 0.5 * codes.square().sum(dim=1)
    limit = min(CHUNK_ELEMENTS, CPU_CHUNK_ELEMENTS) if latent.device.type == "cpu" else CHUNK_ELEMENTS
    for part in latent.split(max(1, limit // len(codes))):
        yield part, torch.addmm(half_square, part, codes.T, alpha=-1)


def _logits(part: Tensor, difference: Tensor, scale: float) -> Tensor:
    """Return `-scale * distance / chi_std` (n k) for what `_half_distances` yields, in its place."""
    square = difference.mul_(2).add_(part.square().sum(dim=1, keepdim=True))
    return square.clamp_(min=0).sqrt_().mul_(-scale / chi_std(part.shape[1]))


def _draw(logits: Tensor) -> Tensor:
    """Draw from the softmax of logits (n k), which are overwritten; return (n) int64.

    Inverts the distribution function at one uniform number per row: Gumbel noise takes k of them, eight times the time
    of all the rest on a CPU.
    """
    heights = logits.sub_(logits.amax(dim=1, keepdim=True)).exp_().cumsum(dim=1)
    level = torch.rand(len(logits), 1, dtype=logits.dtype, device=logits.device) * heights[:, -1:]
    return torch.searchsorted(heights, level, right=True)[:, 0].clamp_(max=logits.shape[1] - 1)


def _minus_gumbel(like: Tensor) -> Tensor:
    """Return the negative of standard Gumbel noise: the log of an exponential variable."""
    tiny = torch.finfo(like.dtype).tiny  # an exponential draw may be 0, its log may not
    return torch.empty_like(like).exponential_().clamp_(min=tiny).log_()


def quantize(latent: Tensor, codes: Tensor, logit_scale: float) -> tuple[Tensor, Tensor]:
    """Replace latents (b c h w) by codes; return code (b h w) int64 and quantized (b c h w) with gradient to codes."""
    require_shape("latent", latent, (None, codes.shape[1], None, None))
    places = latent.detach().movedim(1, -1)  # b h w c
    code = choose_codes(places.flatten(0, 2), codes.detach(), logit_scale).view(places.shape[:3])
    return code, vectors(code, codes)


def vectors(code: Tensor, codes: Tensor) -> Tensor:
    """Return the vectors (b c h w) of codes (b h w) int64 in a codebook (k c)."""
    return functional.embedding(code, codes).movedim(-1, 1)


@register
class ProjectedCodebook(nn.Module):
    """Codes that are a trained linear map of a fixed random table, so that every code moves with every update.

    Zhu et al., 2024 (SimVQ). In training codes may be drawn by similarity to the latent instead of by distance alone
    (Zhao et al., 2025, VQ-VFM-OCL). The gradient of `quantized` reaches `code_proj`.

    Args:
        num_codes: rows of the codebook.
        dim: width of a code.
        basis_dim: width of the fixed table.
        logit_scale: inverse temperature of draws; a plain attribute that a schedule may set; 0 switches them off.
    """

    def __init__(self, num_codes: int, dim: int, basis_dim: int = 1024, logit_scale: float = 0.0):
        super().__init__()
        self.num_codes, self.dim, self.group_sizes = num_codes, dim, [num_codes]
        self.logit_scale = logit_scale
        self.register_buffer("basis", torch.randn(num_codes, basis_dim))
        self.code_proj = nn.Linear(basis_dim, dim)
        self.register_buffer("frozen_codes", None, persistent=False)

    def codes(self) -> Tensor:
        """Return the codebook (k c) float; computed once while `code_proj` is frozen.

        Loading a state makes it anew. Who changes frozen weights by hand calls `forget_codes`.
        """
        if self.code_proj.weight.requires_grad or self.code_proj.bias.requires_grad:
            self.frozen_codes = None
            return self._project()
        if self.frozen_codes is None or self.frozen_codes.dtype != self.basis.dtype:
            with torch.no_grad():
                self.frozen_codes = self._project()
        return self.frozen_codes

    def forget_codes(self) -> None:
        """Drop the codebook computed for frozen weights."""
        self.frozen_codes = None

    def _project(self) -> Tensor:
        with torch.autocast(self.basis.device.type, enabled=False):
            return self.code_proj(self.basis)

    def _load_from_state_dict(self, *arguments, **named) -> None:
        self.forget_codes()
        super()._load_from_state_dict(*arguments, **named)

    def forward(self, latent: Tensor, sample: bool = False) -> tuple[Tensor, Tensor]:
        """Quantize.

        Args:
            latent: (b c h w) float.
            sample: draw codes (where `logit_scale` is positive) instead of taking the nearest.

        Returns:
            code: (b h w) int64.
            quantized: (b c h w) float.
        """
        return quantize(latent, self.codes(), self.logit_scale if sample else 0.0)

    def look_up(self, code: Tensor) -> Tensor:
        """Return the code vectors (b c h w) of codes (b h w) int64."""
        return vectors(code, self.codes())


@register
class LearnedCodebook(nn.Module):
    """A trained table of codes (van den Oord et al., NeurIPS 2017, VQ-VAE), which learns from the alignment loss."""

    def __init__(self, num_codes: int, dim: int):
        super().__init__()
        self.num_codes, self.dim, self.group_sizes = num_codes, dim, [num_codes]
        self.codebook = nn.Parameter(torch.empty(num_codes, dim).uniform_(-1 / num_codes, 1 / num_codes))

    def forward(self, latent: Tensor, sample: bool = False) -> tuple[Tensor, Tensor]:
        """Return the nearest code (b h w) int64 and quantized (b c h w) for latents (b c h w); there are no draws."""
        return quantize(latent, self.codebook, 0.0)

    def look_up(self, code: Tensor) -> Tensor:
        """Return the code vectors (b c h w) of codes (b h w) int64."""
        return vectors(code, self.codebook)


class OneLogitScale:
    """For modules with several codebooks: `logit_scale`, one number that a schedule may set, is that of all of them.

    A class that inherits this has `codebooks()`, which returns them.
    """

    def codebooks(self) -> list[Any]:
        """Return the codebooks."""
        raise NotImplementedError

    @property
    def logit_scale(self) -> float:
        """Inverse temperature of draws, the same for every codebook."""
        return self.codebooks()[0].logit_scale

    @logit_scale.setter
    def logit_scale(self, value: float) -> None:
        for codebook in self.codebooks():
            codebook.logit_scale = value


@register
class GroupedCodebook(OneLogitScale, nn.Module):
    """Codes made of independent parts: equal groups of channels, each with a projected codebook of its own.

    Zhao et al. (Grouped Discrete Representation, GDR): attributes are combined instead of enumerated, so that two
    groups of 256 codes name 65,536 different places.

    Args:
        num_codes: codes of each group.
        dim: width of all groups together.
        basis_dim: width of the codebooks' fixed tables.
        logit_scale: inverse temperature of draws in all groups; a plain number that a schedule may set.

    Raises:
        ValueError: there is no group, or `dim` does not divide into them.
    """

    def __init__(self, num_codes: list[int], dim: int, basis_dim: int = 1024, logit_scale: float = 0.0):
        super().__init__()
        if not num_codes or dim % len(num_codes):
            raise ValueError(f"dim {dim} does not divide into {len(num_codes)} groups of equal width")
        self.dim, self.group_sizes, self.num_codes = dim, list(num_codes), sum(num_codes)
        width = dim // len(num_codes)
        self.groups = nn.ModuleList(ProjectedCodebook(size, width, basis_dim, logit_scale) for size in num_codes)

    def codebooks(self) -> list[ProjectedCodebook]:
        """Return the groups' codebooks."""
        return list(self.groups)

    def forward(self, latent: Tensor, sample: bool = False) -> tuple[Tensor, Tensor]:
        """Quantize each group of channels by itself.

        Args:
            latent: (b c h w) float.
            sample: draw codes (where `logit_scale` is positive) instead of taking the nearest.

        Returns:
            code: (b g h w) int64, the g-th below `group_sizes[g]`.
            quantized: (b c h w) float.
        """
        require_shape("latent", latent, (None, self.dim, None, None))
        parts = latent.chunk(len(self.groups), dim=1)
        chosen = [group(part, sample) for group, part in zip(self.groups, parts, strict=True)]
        codes, quantized = zip(*chosen, strict=True)
        return torch.stack(codes, dim=1), torch.cat(quantized, dim=1)

    def look_up(self, code: Tensor) -> Tensor:
        """Return the code vectors (b c h w) of codes (b g h w) int64."""
        return torch.cat([group.look_up(part) for group, part in zip(self.groups, code.unbind(1), strict=True)], dim=1)
