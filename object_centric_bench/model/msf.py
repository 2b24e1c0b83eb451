"""MSF: one tokenizer for an image at several scales, whose latents are fused before they are quantized."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from object_centric_bench.model.autoencoder import decode
from object_centric_bench.model.freezing import Freezable, no_grad_if_frozen
from object_centric_bench.model.quantizer import OneLogitScale, ProjectedCodebook, match_codes
from object_centric_bench.model.sizes import require_equal, require_shape
from object_centric_bench.registry import register


@register
class MultiScaleTokenizer(OneLogitScale, Freezable):
    """Tokenize an image at several scales; every place takes over the scale that the shared codebook matches best.

    Zhao et al. (Multi-Scale Fusion for Object Representation, ICLR 2025). The image is halved once per scale and
    encoded by one encoder. For each scale the latents of all scales are brought to its grid. A codebook that the
    scales share picks, place by place, the latent it is surest of; latent and code of that choice are averaged with
    the scale's own latent and the code of its own codebook.

    With a decoder (first stage) all scales are quantized and decoded. Without one (second stage) only scale 0 is
    quantized: the codebooks of other scales are unused there, and kept for checkpoints to fit.
    Stays in eval mode and without autograd while all of it is frozen.

    Args:
        encoder: images (b 3 h w) to latents (b c h w).
        shared: codebook of all scales.
        quantizers: a codebook per scale, from the finest; their number is the number of scales.
        decoder: latents to images; None where codes are all that is wanted.
        latent_mix: 0 decodes codes, 1 decodes latents; a plain attribute that a schedule may set.
        logit_scale: inverse temperature of draws from all codebooks, which a schedule may set; None keeps theirs.

    Raises:
        ValueError: widths differ, codebooks have different `logit_scale`, or there is none for scale 0.
    """

    def __init__(
        self,
        encoder: nn.Module,
        shared: ProjectedCodebook,
        quantizers: list[ProjectedCodebook],
        decoder: nn.Module | None = None,
        latent_mix: float = 0.0,
        logit_scale: float | None = None,
    ):
        super().__init__()
        if not quantizers:
            raise ValueError("quantizers is empty: one per scale is needed")
        fits = [("encoder's dim", encoder.dim, "shared's dim", shared.dim)]
        for scale, quantizer in enumerate(quantizers):
            fits.append(("encoder's dim", encoder.dim, f"quantizers.{scale}'s dim", quantizer.dim))
            if logit_scale is None:
                other = f"quantizers.{scale}'s logit_scale"
                fits.append(("shared's logit_scale", shared.logit_scale, other, quantizer.logit_scale))
        if decoder is not None:
            fits.append(("encoder's dim", encoder.dim, "decoder's dim", decoder.dim))
        require_equal(*fits)
        self.encoder = encoder
        self.shared = shared
        self.quantizers = nn.ModuleList(quantizers)
        self.decoder = decoder
        self.latent_mix = latent_mix
        if logit_scale is not None:
            self.logit_scale = logit_scale
        self.dim = encoder.dim
        self.group_sizes = [shared.num_codes, quantizers[0].num_codes]
        self.num_codes = sum(self.group_sizes)

    def codebooks(self) -> list[ProjectedCodebook]:
        """Return all codebooks, the shared one first."""
        return [self.shared, *self.quantizers]

    def forward(self, image: Tensor, sample: bool = False) -> dict[str, Tensor | list[Tensor]]:
        """Tokenize, and decode if there is a decoder.

        Args:
            image: (b 3 h w) float.
            sample: draw codes, and with them the scale of each place, instead of taking the nearest.

        Returns:
            latent: with a decoder, per scale (b c h w) float, fused; without, (b c h w), the encoder's output at scale
                0, not fused.
            code: per scale, or of scale 0 only, (b 2 h w) int64: of the shared codebook, and of the scale's own.
            quantized: per scale, or of scale 0 only, (b c h w) float.
            mixed: with a decoder only, per scale (b c h w) float: blend of latent and quantized.
            reconstruction: with a decoder only, per scale (b 3 h w) float.
        """
        require_shape("image", image, (None, 3, None, None))
        with no_grad_if_frozen(self):
            encoded = [self.encoder(shrink(image, scale)) for scale in range(len(self.quantizers))]
            if self.decoder is None:
                _, code, quantized = self.quantize(encoded, 0, sample)
                return {"latent": encoded[0], "code": code, "quantized": quantized}
            scales = []
            for scale in range(len(encoded)):
                latent, code, quantized = self.quantize(encoded, scale, sample)
                decoded = decode(self.decoder, latent, quantized, self.latent_mix)
                scales.append({"latent": latent, "code": code, "quantized": quantized, **decoded})
            return {key: [output[key] for output in scales] for key in scales[0]}

    def quantize(self, encoded: list[Tensor], scale: int, sample: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Fuse and quantize at one scale.

        Args:
            encoded: the encoder's output (b c h' w') per scale.
            scale: the one whose grid (h w) the result has.
            sample: draw codes instead of taking the nearest.

        Returns:
            latent: (b c h w) float, mean of the chosen scale's latent and this scale's.
            code: (b 2 h w) int64.
            quantized: (b c h w) float, mean of the two codes.
        """
        own_code, own_quantized = self.quantizers[scale](encoded[scale], sample)
        fused, shared_code = self.fuse(encoded, scale, sample)
        code = torch.stack([shared_code, own_code], dim=1)
        return (fused + encoded[scale]) / 2, code, (self.shared.look_up(shared_code) + own_quantized) / 2

    def look_up(self, code: Tensor) -> Tensor:
        """Return the code vectors (b c h w) of codes (b 2 h w) int64 of the finest scale."""
        shared, own = code.unbind(1)
        return (self.shared.look_up(shared) + self.quantizers[0].look_up(own)) / 2

    def fuse(self, encoded: list[Tensor], scale: int, sample: bool) -> tuple[Tensor, Tensor]:
        """Choose, place by place, the scale that the shared codebook is surest of; the first of equally sure ones.

        Args:
            encoded: the encoder's output (b c h' w') per scale.
            scale: the one whose grid (h w) the result has.
            sample: draw codes instead of taking the nearest.

        Returns:
            fused: (b c h w) float, the chosen latents.
            code: (b h w) int64, their codes in the shared codebook.
        """
        codes = self.shared.codes().detach()
        logit_scale = self.logit_scale if sample else 0.0
        for source, latent in enumerate(encoded):
            candidate = regrid(latent, encoded[scale])
            places = candidate.detach().movedim(1, -1)  # b h w c
            its_code, probability = (
                found.view(places.shape[:3]) for found in match_codes(places.flatten(0, 2), codes, logit_scale)
            )
            if source == 0:
                fused, code, surest = candidate, its_code, probability
                continue
            surer = probability > surest
            fused = torch.where(surer[:, None], candidate, fused)
            code = torch.where(surer, its_code, code)
            surest = torch.maximum(probability, surest)
        return fused, code


def shrink(image: Tensor, scale: int) -> Tensor:
    """Halve an image (b c h w) `scale` times, at once: bilinear, without antialiasing, as in the reference."""
    if scale == 0:
        return image
    return functional.interpolate(image, scale_factor=0.5**scale, mode="bilinear", align_corners=False)


def regrid(latent: Tensor, like: Tensor) -> Tensor:
    """Bring a latent (b c h w) to the grid of another: means of a finer one, copies of a coarser one.

    Raises:
        ValueError: one grid is no power of two times the other; the image's sides do not divide by it.
    """
    (height, width), (wanted_height, wanted_width) = latent.shape[2:], like.shape[2:]
    if (height, width) == (wanted_height, wanted_width):
        return latent
    factor = height // wanted_height
    if factor > 1 and (height, width) == (wanted_height * factor, wanted_width * factor):
        return functional.avg_pool2d(latent, factor)
    factor = wanted_height // height
    if factor > 1 and (wanted_height, wanted_width) == (height * factor, width * factor):
        return latent.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    raise ValueError(
        f"grids {height}x{width} and {wanted_height}x{wanted_width} of two scales are no multiples of each other; "
        "use images whose sides divide by 16 at the coarsest scale"
    )
