"""DINOSAUR: slots that reconstruct the features of a frozen vision model."""

from torch import Tensor, nn

from object_centric_bench.model.backbone import extract
from object_centric_bench.model.mlp import zero_biases
from object_centric_bench.model.sizes import require_equal
from object_centric_bench.model.slot_attention import group
from object_centric_bench.registry import register


@register
class DINOSAUR(nn.Module):
    """Seitzer et al., ICLR 2023. As in the reference, features are taken after the backbone's final norm.

    Args:
        backbone: images to features.
        projection: features to the tokens of slot attention.
        initializer: batch size to initial slots.
        slot_attention: tokens and initial slots to slots.
        decoder: slots to features and masks.

    Raises:
        ValueError: widths or grids of parts that meet differ.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projection: nn.Module,
        initializer: nn.Module,
        slot_attention: nn.Module,
        decoder: nn.Module,
    ):
        super().__init__()
        require_equal(
            ("backbone's dim", backbone.dim, "projection's input width", projection.input_dim),
            ("projection's output width", projection.dim, "slot_attention's input_dim", slot_attention.input_dim),
            ("initializer's dim", initializer.dim, "slot_attention's dim", slot_attention.dim),
            ("slot_attention's dim", slot_attention.dim, "decoder's slot width", decoder.dim),
            ("backbone's grid", backbone.grid, "decoder's grid", decoder.grid),
            ("backbone's dim", backbone.dim, "decoder's output width", decoder.output_dim),
        )
        self.backbone = backbone
        self.projection = projection
        self.initializer = initializer
        self.slot_attention = slot_attention
        self.decoder = decoder
        zero_biases(projection)

    def forward(self, image: Tensor | None = None, feature: Tensor | None = None) -> dict[str, Tensor]:
        """Find objects and reconstruct features from them.

        Args:
            image: (b 3 h w) float, ImageNet-normalised.
            feature: (b c h w) float, the backbone's output where it is known already.

        Returns:
            feature: (b c h w) float, target of the reconstruction.
            slots: (b s d) float.
            attention: (b s h w) float, sums to 1 over s.
            mask: (b s h w) float, the decoder's blend weights, sums to 1 over s.
            reconstruction: (b c h w) float.
        """
        feature = extract(self.backbone, image, feature)
        initial = self.initializer(len(feature))
        slots, attention = group(feature, self.projection, initial, self.slot_attention)
        reconstruction, mask = self.decoder(slots)
        return {
            "feature": feature,
            "slots": slots,
            "attention": attention,
            "mask": mask,
            "reconstruction": reconstruction,
        }
