"""DINOSAUR: slots that reconstruct the features of a frozen vision model."""

from torch import Tensor, nn

from object_centric_bench.model.assembly import assemble, fit_reconstruction
from object_centric_bench.model.backbone import extract
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
        parts = backbone, projection, initializer, slot_attention, decoder
        assemble(self, *parts, fit=[fit_reconstruction(backbone, decoder)])

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
