"""Tokenizers: an encoder, a quantizer, and for the first training stage a decoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from object_centric_bench.model.freezing import Freezable, no_grad_if_frozen
from object_centric_bench.model.pixel_range import PixelRange
from object_centric_bench.model.sizes import require_equal, require_shape
from object_centric_bench.model.taesd import taesd_layers
from object_centric_bench.registry import register


@register
class Tokenizer(Freezable):
    """A vector-quantized autoencoder: input to latents, latents to codes, codes to an image.

    With a `LearnedCodebook` it is VQ-VAE (van den Oord et al., NeurIPS 2017), with a `GroupedCodebook` that of GDR.
    Stays in eval mode and without autograd while all of it is frozen. `latent_mix`, a plain attribute that a schedule
    may set, is the share of the unquantized latent in what the decoder sees; gradient passes the quantizer straight
    through to the encoder.

    Args:
        encoder: maps the input to latents (b c h w).
        quantizer: maps latents to codes.
        decoder: maps latents to an image; None where codes are all that is wanted.
        latent_mix: 0 decodes codes, 1 decodes latents.

    Raises:
        ValueError: the parts' widths differ.
    """

    def __init__(
        self, encoder: nn.Module, quantizer: nn.Module, decoder: nn.Module | None = None, latent_mix: float = 0.0
    ):
        super().__init__()
        require_equal(("encoder's dim", encoder.dim, "quantizer's dim", quantizer.dim))
        if decoder is not None:
            require_equal(("quantizer's dim", quantizer.dim, "decoder's dim", decoder.dim))
        self.encoder = encoder
        self.quantizer = quantizer
        self.decoder = decoder
        self.latent_mix = latent_mix
        self.dim, self.num_codes, self.group_sizes = quantizer.dim, quantizer.num_codes, quantizer.group_sizes

    def forward(self, feature: Tensor, sample: bool = False) -> dict[str, Tensor]:
        """Tokenize, and decode if there is a decoder.

        Args:
            feature: (b c h w) float, what the encoder takes: a backbone's features or an image.
            sample: draw codes instead of taking the nearest; who trains on the codes decides, as a frozen tokenizer
                is in eval mode itself.

        Returns:
            latent: (b c h w) float.
            code: (b h w) int64, or (b g h w) from a quantizer with groups.
            quantized: (b c h w) float.
            mixed: (b c h w) float, with a decoder only: blend of latent and quantized.
            reconstruction: (b 3 h w) float, with a decoder only.
        """
        with no_grad_if_frozen(self):
            latent = self.encoder(feature)
            code, quantized = self.quantizer(latent, sample)
            output = {"latent": latent, "code": code, "quantized": quantized}
            if self.decoder is not None:
                output |= decode(self.decoder, latent, quantized, self.latent_mix)
            return output

    def look_up(self, code: Tensor) -> Tensor:
        """Return the code vectors (b c h w) of codes (b h w) int64, or (b g h w): the `quantized` they came with."""
        return self.quantizer.look_up(code)


def decode(decoder: nn.Module, latent: Tensor, quantized: Tensor, latent_mix: float) -> dict[str, Tensor]:
    """Return mixed (b c h w), the blend of latent and quantized, and its reconstruction (b 3 h w).

    The decoder's gradient goes straight through to the latent, whatever the blend.
    """
    mixed = quantized
    if latent_mix > 0:
        mixed = latent_mix * latent + (1 - latent_mix) * quantized
    return {"mixed": mixed, "reconstruction": decoder(latent + (mixed - latent).detach())}


@register
class FeatureEncoder(nn.Module):
    """Encode a backbone's features: three 3x3 convolutions, then a norm and a 1x1 convolution to the code width.

    Zhao et al., 2025 (VQ-VFM-OCL). No activation stands between the last norms, as in the reference.

    Args:
        input_dim: channels of the features.
        dim: channels of the latents.
        hidden_dim: channels in between; None means `input_dim`.
    """

    def __init__(self, input_dim: int, dim: int, hidden_dim: int | None = None):
        super().__init__()
        width = hidden_dim or input_dim
        self.input_dim, self.dim = input_dim, dim
        self.convs = nn.ModuleList(nn.Conv2d(size, width, 3, padding=1) for size in (input_dim, width, width))
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(3))
        self.activation = nn.SiLU()
        self.to_latent = nn.Conv2d(width, dim, 1)

    def forward(self, feature: Tensor) -> Tensor:
        """Map features (b c h w) to latents (b d h w)."""
        require_shape("feature", feature, (None, self.input_dim, None, None))
        hidden = self.activation(self.norms[0](self.convs[0](feature)))
        hidden = self.activation(self.norms[1](self.convs[1](hidden)))
        return self.to_latent(self.norms[2](self.convs[2](hidden)))


@register
class FeatureDecoder(nn.Module):
    """Decode latents to a backbone's features by a linear map, the same at every place: for demos, not published.

    Latents that give back features spread as the features' first principal components do, objects apart; an image's
    texture, which `ImageDecoder` wants to know of them, tells little of that (docs/results.md).

    Args:
        dim: channels of the latents.
        output_dim: channels of the features.
    """

    def __init__(self, dim: int, output_dim: int):
        super().__init__()
        self.dim = dim
        self.to_feature = nn.Conv2d(dim, output_dim, 1)

    def forward(self, latent: Tensor) -> Tensor:
        """Map latents (b d h w) to features (b c h w)."""
        return self.to_feature(latent)


@register
class ImageEncoder(nn.Module):
    """Encode an image to latents of a sixteenth of its size: halve it, then most of TAESD, a norm and a convolution.

    Zhao et al. (VQ-VFM-OCL, GDR, MSF); TAESD is madebyollin's distilled autoencoder of Stable Diffusion, here the
    first 14 layers of its encoder.

    Args:
        dim: channels of the latents.
        width: channels in between; TAESD has 64.
        pretrained: start from TAESD's weights.
        weights: local file of them (diffusers format); None asks the hub and its cache.
        published_range: convert pixels as the reference does, see `PixelRange`; False gives TAESD the values that it
            was trained on.

    Raises:
        WeightsError: TAESD's weights cannot be had, or `width` is not theirs.
    """

    input_dim = 3

    def __init__(
        self,
        dim: int,
        width: int = 64,
        pretrained: bool = True,
        weights: str | None = None,
        published_range: bool = False,
    ):
        super().__init__()
        self.dim = dim
        self.pixel_range = PixelRange(published_range)
        self.taesd = taesd_layers("encoder", range(14), width, pretrained, weights)
        self.norm = nn.GroupNorm(1, width)
        self.to_latent = nn.Conv2d(width, dim, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (b 3 h w), ImageNet-normalised, to latents (b c h/16 w/16)."""
        require_shape("image", image, (None, self.input_dim, None, None))
        # Frozen leading layers cost no graph: neither their weights nor the image ask for gradient.
        hidden = functional.interpolate(image, scale_factor=0.5, mode="bicubic", align_corners=False)
        hidden = run_layers(self.taesd, self.pixel_range(hidden))
        return self.to_latent(self.norm(hidden))


@register
class PlainImageDecoder(nn.Module):
    """Decode latents to an image of 8 times their size: a 1x1 convolution, a norm, then TAESD's layers 2 to 18.

    Zhao et al. (VQ-VFM-OCL, GDR, MSF).

    Args:
        dim, width, pretrained, weights, published_range: see `ImageEncoder`.

    Raises:
        WeightsError: TAESD's weights cannot be had, or `width` is not theirs.
    """

    def __init__(
        self,
        dim: int,
        width: int = 64,
        pretrained: bool = True,
        weights: str | None = None,
        published_range: bool = False,
    ):
        super().__init__()
        self.dim = dim
        self.pixel_range = PixelRange(published_range)
        self.from_latent = nn.Conv2d(dim, width, 1)
        self.norm = nn.GroupNorm(1, width)
        self.taesd = taesd_layers("decoder", range(2, 19), width, pretrained, weights)

    def forward(self, latent: Tensor) -> Tensor:
        """Map latents (b c h w) to images (b 3 8h 8w), ImageNet-normalised like the images it learns from."""
        return self.pixel_range.invert(run_layers(self.taesd, self.norm(self.from_latent(latent))))


@register
class ImageDecoder(nn.Module):
    """Decode latents to an image of 8 times their size: 1x1 convolutions, a pixel shuffle, then most of TAESD.

    Zhao et al., 2025 (VQ-VFM-OCL); TAESD is madebyollin's distilled decoder of Stable Diffusion, here its layers 2
    to 18 but for the first upsampling.

    Args:
        hidden_dim: channels before the pixel shuffle.
        dim, width, pretrained, weights, published_range: see `ImageEncoder`.

    Raises:
        WeightsError: TAESD's weights cannot be had, or `width` is not theirs.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int = 256,
        width: int = 64,
        pretrained: bool = True,
        weights: str | None = None,
        published_range: bool = False,
    ):
        super().__init__()
        self.dim = dim
        self.pixel_range = PixelRange(published_range)
        self.from_latent = nn.Conv2d(dim, hidden_dim, 1)
        self.upscale = nn.Sequential(
            nn.Conv2d(hidden_dim, hidden_dim, 1),
            nn.GroupNorm(1, hidden_dim),
            nn.SiLU(),
            nn.Conv2d(hidden_dim, 4 * width, 1),
            nn.PixelShuffle(2),
            nn.GroupNorm(1, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 1),
        )
        self.norm = nn.GroupNorm(1, width)
        self.activation = nn.SiLU()
        self.taesd = taesd_layers("decoder", (*range(2, 5), *range(6, 19)), width, pretrained, weights)

    def forward(self, latent: Tensor) -> Tensor:
        """Map latents (b c h w) to images (b 3 8h 8w), ImageNet-normalised like the images it learns from."""
        hidden = self.activation(self.norm(self.upscale(self.from_latent(latent))))
        return self.pixel_range.invert(run_layers(self.taesd, hidden))


def run_layers(layers: nn.ModuleDict, hidden: Tensor) -> Tensor:
    """Apply layers one after the other; in a `ModuleDict` they keep their authors' numbers though some are left out."""
    hidden = hidden.contiguous(memory_format=torch.channels_last)  # a convolution takes two thirds of the time
    for layer in layers.values():
        hidden = layer(hidden)
    return hidden.contiguous()
