"""Conditional diffusion decoders, which tell the noise in a latent, given the slots; the published one: a UNet."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from object_centric_bench.model.library import require_library
from object_centric_bench.model.sizes import require_shape
from object_centric_bench.model.unet import quicken
from object_centric_bench.registry import register

NORM_GROUPS = 32  # of every group norm in the UNet


class Denoising(nn.Module):
    """What decoders share that denoise a tokenizer's latents, given the slots; only the training step, no sampling.

    Ho et al., NeurIPS 2020 (DDPM), Eq. 4 and 14: a uniform step t per sample, x_t = sqrt(a_t) x_0 + sqrt(1 - a_t)
    noise with a_t the product of 1 - beta up to t, and the noise is predicted. As in the reference the square root of
    beta rises linearly, and latents are not rescaled.

    Args:
        grid: [h, w] of the latents.
        latent_dim: their channels.
        dim: width of the slots.
        num_steps: length of the diffusion.
        beta_start, beta_end: variance of the noise added by the first and the last step.

    Raises:
        ValueError: no step, or variances that make no sense.
    """

    def __init__(self, grid: list[int], latent_dim: int, dim: int, num_steps: int, beta_start: float, beta_end: float):
        super().__init__()
        self.grid, self.latent_dim, self.dim, self.num_steps = list(grid), latent_dim, dim, num_steps
        kept = kept_variance(num_steps, beta_start, beta_end)
        self.register_buffer("signal_scale", kept.sqrt(), persistent=False)
        self.register_buffer("noise_scale", (1 - kept).sqrt(), persistent=False)

    def denoise(self, noisy: Tensor, timestep: Tensor, slots: Tensor) -> Tensor:
        """Return the noise (b c h w) in noisy latents (b c h w) after steps (b), given slots (b s d)."""
        raise NotImplementedError

    def forward(
        self, latent: Tensor, slots: Tensor, timestep: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Add noise and predict it.

        Args:
            latent: (b c h w) float.
            slots: (b s d) float.
            timestep: (b) int64 in 0..num_steps - 1; drawn uniformly if not given.
            noise: (b c h w) float, standard normal; drawn if not given.

        Returns:
            prediction: (b c h w) float, of the noise.
            noise: (b c h w) float, at least float32 also under autocast.

        Raises:
            ValueError: another grid or width than configured, or inputs of different batch sizes.
        """
        require_shape("latent", latent, (None, self.latent_dim, *self.grid))
        require_shape("slots", slots, (latent.shape[0], None, self.dim))
        latent = latent.to(torch.promote_types(latent.dtype, torch.float32))
        if timestep is None:
            timestep = torch.randint(self.num_steps, (len(latent),), device=latent.device)
        if noise is None:
            noise = torch.randn_like(latent)
        require_shape("timestep", timestep, (latent.shape[0],))
        require_shape("noise", noise, latent.shape)
        noisy = self.add_noise(latent, timestep, noise)
        return self.denoise(noisy, timestep, slots), noise

    def add_noise(self, latent: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """Return the latent after `timestep` (b) more steps of diffusion, by the given noise; both (b c h w) float."""
        signal_scale, noise_scale = (
            table[timestep].view(-1, 1, 1, 1) for table in (self.signal_scale, self.noise_scale)
        )
        return signal_scale * latent + noise_scale * noise


@register
class DiffusionDecoder(Denoising):
    """Denoise latents by the UNet of latent diffusion, which attends to the slots.

    Wu et al., NeurIPS 2023 (SlotDiffusion), Sec. 3; `num_heads` is the same on all levels, as in the reference.

    Args:
        grid, latent_dim, dim: see `Denoising`.
        widths: channels of the UNet's levels, each at half the resolution of the one before; slots are attended to
            on all levels but the first.
        layers_per_block: residual blocks of a level on the way down; there is one more on the way up.
        num_heads: of every attention.
        dropout: probability inside the residual blocks.
        num_steps, beta_start, beta_end: see `Denoising`.

    Raises:
        ValueError: a width that group norm or attention cannot divide, no step, or variances that make no sense.
    """

    compiled_parts = ("unet",)  # steps and noise are drawn outside

    def __init__(
        self,
        grid: list[int],
        latent_dim: int,
        dim: int,
        widths: Sequence[int] = (128, 256, 384, 512),
        layers_per_block: int = 2,
        num_heads: int = 8,
        dropout: float = 0.1,
        num_steps: int = 1000,
        beta_start: float = 0.0015,
        beta_end: float = 0.0195,
    ):
        super().__init__(grid, latent_dim, dim, num_steps, beta_start, beta_end)
        self.unet = build_unet(latent_dim, dim, widths, layers_per_block, num_heads, dropout)

    def denoise(self, noisy: Tensor, timestep: Tensor, slots: Tensor) -> Tensor:
        """See `Denoising`."""
        (prediction,) = self.unet(noisy, timestep, encoder_hidden_states=slots, return_dict=False)
        return prediction


def kept_variance(num_steps: int, beta_start: float, beta_end: float) -> Tensor:
    """Return which share of the signal's variance is left after each step, (t) float32; DDPM writes alpha-bar.

    Raises:
        ValueError: less than one step, or variances that do not rise within 0..1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is at least 1, got {num_steps}")
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(f"0 < beta_start <= beta_end < 1 is needed, got {beta_start} and {beta_end}")
    beta = torch.linspace(beta_start**0.5, beta_end**0.5, num_steps) ** 2
    return (1 - beta).cumprod(dim=0)


def build_unet(
    latent_dim: int, slot_dim: int, widths: Sequence[int], layers_per_block: int, num_heads: int, dropout: float
) -> nn.Module:
    """Return the UNet of latent diffusion; arguments and errors as for `DiffusionDecoder`."""
    widths = list(widths)
    if not widths:
        raise ValueError("widths names at least one level of the UNet, got none")
    faults = [f"width {width} is no multiple of {NORM_GROUPS}" for width in widths if width % NORM_GROUPS]
    attended = widths[1:] or widths  # the middle has the last level's width
    faults += [f"width {width} is no multiple of num_heads {num_heads}" for width in attended if width % num_heads]
    if faults:
        raise ValueError("; ".join(faults))
    require_library("diffusers")
    from diffusers import UNet2DConditionModel  # takes seconds to import

    deeper = len(widths) - 1
    unet = UNet2DConditionModel(
        in_channels=latent_dim,
        out_channels=latent_dim,
        down_block_types=["DownBlock2D", *["CrossAttnDownBlock2D"] * deeper],
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=[*["CrossAttnUpBlock2D"] * deeper, "UpBlock2D"],
        block_out_channels=widths,
        layers_per_block=layers_per_block,
        cross_attention_dim=slot_dim,
        transformer_layers_per_block=1,
        attention_head_dim=num_heads,  # diffusers' name for the number of heads
        norm_num_groups=NORM_GROUPS,
        dropout=dropout,
    )
    return quicken(unet)
