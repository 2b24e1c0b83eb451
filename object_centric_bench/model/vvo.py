"""VVO: object-centric learning on the shared, quantized features of a vision foundation model."""

from torch import Tensor, nn

from object_centric_bench.model.backbone import extract
from object_centric_bench.model.mlp import zero_biases
from object_centric_bench.model.sizes import require_equal
from object_centric_bench.model.slot_attention import group
from object_centric_bench.registry import register


@register
class VQDINO(nn.Module):
    """First stage of VVO: learn to quantize a frozen backbone's features such that they give back the image.

    Zhao et al., 2025 (Vector-Quantized Vision Foundation Models for Object-Centric Learning), Sec. 3.

    Args:
        backbone: images to features.
        tokenizer: features to codes, codes to an image.

    Raises:
        ValueError: widths of parts that meet differ, or the tokenizer has no decoder.
    """

    def __init__(self, backbone: nn.Module, tokenizer: nn.Module):
        super().__init__()
        require_equal(("backbone's dim", backbone.dim, "tokenizer.encoder's input_dim", tokenizer.encoder.input_dim))
        if tokenizer.decoder is None:
            raise ValueError("the tokenizer needs a decoder: the first stage learns by reconstructing images")
        self.backbone = backbone
        self.tokenizer = tokenizer

    def forward(self, image: Tensor | None = None, feature: Tensor | None = None) -> dict[str, Tensor]:
        """Quantize and reconstruct.

        Args:
            image: (b 3 h w) float, ImageNet-normalised.
            feature: (b c h w) float, the backbone's output where it is known already.

        Returns:
            feature: (b c h w) float.
            latent: (b d h w) float, before quantization.
            code: (b h w) int64.
            quantized: (b d h w) float.
            mixed: (b d h w) float, blend of latent and quantized that is decoded.
            reconstruction: (b 3 h w) float, an image 8 times the features' size.
        """
        feature = extract(self.backbone, image, feature)
        return {"feature": feature, **self.tokenizer(feature, sample=self.training)}


class SecondStage(nn.Module):
    """What the second stages share: slots from a backbone's features, codes from the first stage's frozen tokenizer.

    Args:
        backbone: images to features.
        projection: features to the tokens of slot attention.
        initializer: batch size to initial slots.
        slot_attention: tokens and initial slots to slots.
        tokenizer: features to codes; it is frozen here, and its weights come from the first stage.
        decoder: from slots; what it gives is the method's.
        sample_codes: draw the codes in training, at the quantizer's `logit_scale`, instead of taking the nearest.

    Raises:
        ValueError: widths or grids of parts that meet differ.
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
    ):
        super().__init__()
        require_equal(
            ("backbone's dim", backbone.dim, "projection's input width", projection.input_dim),
            ("projection's output width", projection.dim, "slot_attention's input_dim", slot_attention.input_dim),
            ("initializer's dim", initializer.dim, "slot_attention's dim", slot_attention.dim),
            ("backbone's dim", backbone.dim, "tokenizer.encoder's input_dim", tokenizer.encoder.input_dim),
            ("slot_attention's dim", slot_attention.dim, "decoder's slot width", decoder.dim),
            ("backbone's grid", backbone.grid, "decoder's grid", decoder.grid),
            *self.decoder_fit(backbone, tokenizer.quantizer, decoder),
        )
        self.backbone = backbone
        self.projection = projection
        self.initializer = initializer
        self.slot_attention = slot_attention
        self.tokenizer = tokenizer.requires_grad_(False).eval()
        self.decoder = decoder
        self.sample_codes = sample_codes
        zero_biases(projection)

    @staticmethod
    def decoder_fit(backbone: nn.Module, quantizer: nn.Module, decoder: nn.Module) -> list[tuple]:
        """Return the sizes that this method's decoder must share, as `require_equal` takes them."""
        raise TypeError("SecondStage is no method by itself: build VVOTfd or VVOMlp")

    def encode(self, image: Tensor | None, feature: Tensor | None) -> dict[str, Tensor]:
        """Return feature, code, quantized, slots and attention, shaped as the methods' `forward` says."""
        feature = extract(self.backbone, image, feature)
        token = self.tokenizer(feature, sample=self.training and self.sample_codes)
        slots, attention = group(feature, self.projection, self.initializer(len(feature)), self.slot_attention)
        codes = {"code": token["code"], "quantized": token["quantized"]}
        return {"feature": feature, **codes, "slots": slots, "attention": attention}


@register
class VVOTfd(SecondStage):
    """Second stage of VVO with an autoregressive decoder: slots predict the codes. Arguments: see `SecondStage`.

    The decoder maps code vectors and slots to logits.
    """

    @staticmethod
    def decoder_fit(backbone: nn.Module, quantizer: nn.Module, decoder: nn.Module) -> list[tuple]:
        """Code vectors are the decoder's tokens, codes its classes."""
        return [
            ("tokenizer.quantizer's dim", quantizer.dim, "decoder's dim", decoder.dim),
            ("tokenizer.quantizer's num_codes", quantizer.num_codes, "decoder's num_codes", decoder.num_codes),
        ]

    def forward(self, image: Tensor | None = None, feature: Tensor | None = None) -> dict[str, Tensor]:
        """Find objects and predict codes from them.

        Args:
            image: (b 3 h w) float, ImageNet-normalised.
            feature: (b c h w) float, the backbone's output where it is known already.

        Returns:
            feature: (b c h w) float.
            code: (b h w) int64, target of the logits.
            quantized: (b d h w) float, the code vectors.
            slots: (b s d) float.
            attention: (b s h w) float, sums to 1 over s.
            logits: (b k h w) float.
        """
        output = self.encode(image, feature)
        return {**output, "logits": self.decoder(output["quantized"], output["slots"])}


@register
class VVOMlp(SecondStage):
    """Second stage of VVO with a mixture decoder: slots reconstruct codes and features. Arguments: see `SecondStage`.

    The decoder maps slots to code vector and feature side by side, and masks.
    """

    @staticmethod
    def decoder_fit(backbone: nn.Module, quantizer: nn.Module, decoder: nn.Module) -> list[tuple]:
        """Code vector and feature lie side by side in the decoder's output."""
        width = quantizer.dim + backbone.dim
        return [("tokenizer.quantizer's dim plus backbone's dim", width, "decoder's output width", decoder.output_dim)]

    def forward(self, image: Tensor | None = None, feature: Tensor | None = None) -> dict[str, Tensor]:
        """Find objects and reconstruct code vectors and features from them.

        Args:
            image: (b 3 h w) float, ImageNet-normalised.
            feature: (b c h w) float, the backbone's output where it is known already.

        Returns:
            feature: (b c h w) float, target of `feature_reconstruction`.
            code: (b h w) int64.
            quantized: (b d h w) float, target of `quantized_reconstruction`.
            slots: (b s d) float.
            attention: (b s h w) float, sums to 1 over s.
            mask: (b s h w) float, the decoder's blend weights, sums to 1 over s.
            quantized_reconstruction: (b d h w) float.
            feature_reconstruction: (b c h w) float.
        """
        output = self.encode(image, feature)
        reconstruction, mask = self.decoder(output["slots"])
        quantized, feature = reconstruction.split([self.tokenizer.quantizer.dim, self.backbone.dim], dim=1)
        return {**output, "mask": mask, "quantized_reconstruction": quantized, "feature_reconstruction": feature}
