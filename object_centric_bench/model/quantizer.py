"""Quantizers: continuous latents to the codes of a codebook."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from object_centric_bench.model.sizes import require_shape
from object_centric_bench.registry import register

CHUNK_ELEMENTS = 2**24  # similarities held at once: 64 MiB in float32


def chi_std(dim: int) -> float:
    """Return the standard deviation of the chi distribution: of the length of a standard normal vector of `dim`."""
    mean = math.sqrt(2) * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2))
    return math.sqrt(dim - mean**2)


@torch.no_grad()
def choose_codes(latent: Tensor, codes: Tensor, logit_scale: float = 0.0) -> Tensor:
    """Pick a code per latent: the nearest one, or a draw that favours near ones.

    A draw is the argmax of `-logit_scale * distance / chi_std + Gumbel noise`, which samples from the softmax of the
    first term without computing it. Distances are float32 also under autocast; latents are taken in chunks.

    Args:
        latent: (n c) float.
        codes: (k c) float.
        logit_scale: inverse temperature of the draw; 0 picks the nearest code.

    Returns:
        (n) int64.
    """
    with torch.autocast(latent.device.type, enabled=False):
        latent, codes = latent.float(), codes.float()
        half_square = 0.5 * codes.square().sum(dim=1)
        chosen = []
        for part in latent.split(max(1, CHUNK_ELEMENTS // len(codes))):
            difference = half_square - part @ codes.T  # half the squared distance, less a constant per latent
            if logit_scale > 0:
                square = 2 * difference + part.square().sum(dim=1, keepdim=True)
                logits = square.clamp_(min=0).sqrt_().mul_(-logit_scale / chi_std(codes.shape[1]))
                difference = torch.empty_like(logits).exponential_().log_().sub_(logits)  # -log of Exp(1) is Gumbel
            chosen.append(difference.argmin(dim=1))
    return torch.cat(chosen)


def quantize(latent: Tensor, codes: Tensor, logit_scale: float) -> tuple[Tensor, Tensor]:
    """Replace latents (b c h w) by codes; return code (b h w) int64 and quantized (b c h w) with gradient to codes."""
    require_shape("latent", latent, (None, codes.shape[1], None, None))
    places = latent.detach().movedim(1, -1)  # b h w c
    code = choose_codes(places.flatten(0, 2), codes.detach(), logit_scale).view(places.shape[:3])
    return code, functional.embedding(code, codes).movedim(-1, 1)


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
        self.num_codes, self.dim = num_codes, dim
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


@register
class LearnedCodebook(nn.Module):
    """A trained table of codes (van den Oord et al., NeurIPS 2017, VQ-VAE), which learns from the alignment loss."""

    def __init__(self, num_codes: int, dim: int):
        super().__init__()
        self.num_codes, self.dim = num_codes, dim
        self.codebook = nn.Parameter(torch.empty(num_codes, dim).uniform_(-1 / num_codes, 1 / num_codes))

    def forward(self, latent: Tensor, sample: bool = False) -> tuple[Tensor, Tensor]:
        """Return the nearest code (b h w) int64 and quantized (b c h w) for latents (b c h w); there are no draws."""
        return quantize(latent, self.codebook, 0.0)
