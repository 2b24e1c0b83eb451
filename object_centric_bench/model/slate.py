"""SLATE: slots predict the codes of an image by an autoregressive transformer."""

from torch import Tensor, nn

from object_centric_bench.model.second_stage import SecondStage, fit_codes, fit_image
from object_centric_bench.registry import register


@register
class SLATE(SecondStage):
    """Singh et al., ICLR 2022, Sec. 3, on features of a vision model. Arguments: see `SecondStage`.

    The tokenizer is any that takes images: a VQ-VAE, or one with several codes per place (GDR, MSF). The decoder maps
    code vectors and slots to logits. Deviations, of the reference: slots are found in a frozen backbone's features
    instead of embedded codes, and the tokenizer is trained before and frozen instead of trained along.
    """

    tokenizes_images = True

    @staticmethod
    def fit(backbone: nn.Module, tokenizer: nn.Module, decoder: nn.Module) -> list[tuple]:
        """Images are tokenized, code vectors are the decoder's tokens, codes its classes."""
        return [*fit_image(tokenizer), *fit_codes(tokenizer, decoder)]

    def forward(
        self, image: Tensor | None = None, feature: Tensor | None = None, code: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Find objects and predict codes from them.

        Args:
            image: (b 3 h w) float, ImageNet-normalised.
            feature: (b c h w) float, the backbone's output where it is known already.
            code: (b h w) int64, the tokenizer's nearest where they are known already.

        Returns:
            feature: (b c h w) float.
            code: (b h w) int64, or (b g h w) with g codes per place; target of the logits.
            quantized: (b d h w) float, the code vectors.
            slots: (b s d) float.
            attention: (b s h w) float, sums to 1 over s.
            logits: (b k h w) float, k being the sum of the classes of g codes.
        """
        output = self.find_slots(image, feature)
        token = self.tokenize(image, code)
        logits = self.decoder(token["quantized"], output["slots"])
        return {**output, **token, "logits": logits}
