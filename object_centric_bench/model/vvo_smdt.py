"""VVO with a slot mixer: slots follow objects, reconstruct codes and features, and predict where places move."""

from math import prod

from torch import Tensor, nn

from object_centric_bench.model.keys import extract_with_keys, require_keys
from object_centric_bench.model.second_stage import fit_feature
from object_centric_bench.model.temporal import VideoSecondStage, decode_slots, valid_slots
from object_centric_bench.registry import register


@register
class VVOSmdT(VideoSecondStage):
    """Second stage of VVO with a slot mixer: slots reconstruct codes and features and predict similarities.

    Zhao et al., 2025 (Vector-Quantized Vision Foundation Models for Object-Centric Learning), Sec. 3, whose code for
    it is not public: `VideoSAUR` which also reconstructs code vectors, as `VVOMlpT` does. Codes enter by the loss only.

    Args: see `VideoSecondStage`; the decoder gives code vector, feature and similarity logits side by side, and masks.
        keys: see `VideoSAUR`.

    Raises:
        ValueError: widths or grids of parts that meet differ, or the backbone has no keys.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projection: nn.Module,
        initializer: nn.Module,
        slot_attention: nn.Module,
        predictor: nn.Module,
        tokenizer: nn.Module,
        decoder: nn.Module,
        sample_codes: bool = True,
        keys: bool = False,
    ):
        parts = projection, initializer, slot_attention, predictor, tokenizer, decoder
        super().__init__(backbone, *parts, sample_codes=sample_codes)
        if keys:
            require_keys(backbone)
        self.keys = keys
        self.widths = [tokenizer.dim, backbone.dim, prod(backbone.grid)]

    @staticmethod
    def fit(backbone: nn.Module, tokenizer: nn.Module, decoder: nn.Module) -> list[tuple]:
        """Features are tokenized; code vector, feature and similarity lie side by side in the decoder's output."""
        width = tokenizer.dim + backbone.dim + prod(backbone.grid)
        sides = ("codes', features' and similarity's width", width, "decoder's output width", decoder.output_dim)
        return [*fit_feature(backbone, tokenizer), sides]

    def forward(
        self,
        video: Tensor | None = None,
        box: Tensor | None = None,
        feature: Tensor | None = None,
        code: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Follow objects, reconstruct code vectors and features and predict similarities from them.

        Args: see `VideoSAUR.forward`, and
            code: (b t h w) int64, the tokenizer's nearest where they are known already.

        Returns:
            feature: (b t c h w) float, target of `feature_reconstruction`.
            key: (b t c h w) float, with `keys` only.
            code: (b t h w) int64.
            quantized: (b t e h w) float, target of `quantized_reconstruction`.
            slots: (b t s d) float.
            attention: (b t s h w) float, sums to 1 over s.
            mask: (b t s h w) float, the decoder's weights of the slots, sums to 1 over s.
            quantized_reconstruction: (b t e h w) float.
            feature_reconstruction: (b t c h w) float.
            similarity: (b t n h w) float, logits over the n places of a later frame for every place.
        """
        sources = extract_with_keys(self.backbone, video, feature, self.keys)
        output = sources | self.find_slots(video, box, sources["feature"])
        token = self.tokenize_frames(output["feature"], code)
        decoded, mask = decode_slots(self.decoder, output["slots"], valid_slots(self.initializer, box))
        quantized, feature, similarity = decoded.split(self.widths, dim=2)
        return {
            **output,
            **token,
            "mask": mask,
            "quantized_reconstruction": quantized,
            "feature_reconstruction": feature,
            "similarity": similarity,
        }
