"""SlotDiffusion: slots guide the denoising of an image's latents."""

from torch import Tensor, nn

from object_centric_bench.model.second_stage import SecondStage, fit_denoising, fit_image
from object_centric_bench.registry import register


@register
class SlotDiffusion(SecondStage):
    """Wu et al., NeurIPS 2023, Sec. 3, on features of a vision model.

    The tokenizer is any that takes images: a VQ-VAE, or one with several codes per place (GDR, MSF). The decoder adds
    noise to its latents and predicts that noise from slots. Deviation, of the reference: without `continuous_target`
    the latents that are denoised are the code vectors.

    Args:
        continuous_target: denoise what the tokenizer's encoder gives instead of its code vectors.
        backbone, projection, initializer, slot_attention, tokenizer, decoder, sample_codes: see `SecondStage`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projection: nn.Module,
        initializer: nn.Module,
        slot_attention: nn.Module,
        tokenizer: nn.Module,
        decoder: nn.Module,
        sample_codes: bool = True,
        continuous_target: bool = False,
    ):
        super().__init__(backbone, projection, initializer, slot_attention, tokenizer, decoder, sample_codes)
        self.continuous_target = continuous_target

    tokenizes_images = True

    @staticmethod
    def fit(backbone: nn.Module, tokenizer: nn.Module, decoder: nn.Module) -> list[tuple]:
        """Images are tokenized; the decoder denoises vectors of the code width."""
        return [*fit_image(tokenizer), *fit_denoising(tokenizer, decoder)]

    def forward(
        self,
        image: Tensor | None = None,
        feature: Tensor | None = None,
        timestep: Tensor | None = None,
        noise: Tensor | None = None,
        code: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Find objects and predict noise from them.

        Args:
            image: (b 3 h w) float, ImageNet-normalised.
            feature: (b c h w) float, the backbone's output where it is known already.
            code: (b h w) int64, the tokenizer's nearest where they are known already.
            timestep: (b) int64, how far to diffuse; drawn if not given.
            noise: (b e h w) float, standard normal; drawn if not given.

        Returns:
            feature: (b c h w) float.
            code: (b h w) int64, or (b g h w) with g codes per place; not with `continuous_target`.
            quantized: (b e h w) float, the code vectors; not with `continuous_target`.
            slots: (b s d) float.
            attention: (b s h w) float, sums to 1 over s.
            prediction: (b e h w) float, of the noise.
            noise: (b e h w) float, target of the prediction.
        """
        output = self.find_slots(image, feature)
        if self.continuous_target:
            token, target = {}, self.encode(image)
        else:
            token = self.tokenize(image, code)
            target = token["quantized"]
        prediction, noise = self.decoder(target, output["slots"], timestep, noise)
        return {**output, **token, "prediction": prediction, "noise": noise}
