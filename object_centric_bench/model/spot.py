"""SPOT: slots that predict features by a transformer reading patches in nine orders, then teach a second model."""

import torch
from torch import Tensor, nn

from object_centric_bench.model.backbone import extract
from object_centric_bench.model.mlp import zero_biases
from object_centric_bench.model.sizes import require_equal
from object_centric_bench.model.slot_attention import group
from object_centric_bench.registry import register


@register
class SPOT(nn.Module):
    """Kakogeorgiou et al., CVPR 2024, first stage: train on the features of a frozen backbone.

    The loss is the mean squared error of the reconstruction to the features.

    Args:
        backbone: images to features; the paper takes them before the backbone's final norm.
        projection: features to the tokens of slot attention.
        initializer: batch size to initial slots.
        slot_attention: tokens and initial slots to slots.
        decoder: features and slots to features and masks.

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
        require_fit(backbone, projection, initializer, slot_attention, decoder)
        self.backbone = backbone
        self.projection = projection
        self.initializer = initializer
        self.slot_attention = slot_attention
        self.decoder = decoder
        zero_biases(projection)

    def forward(self, image: Tensor | None = None, feature: Tensor | None = None) -> dict[str, Tensor]:
        """Find objects and predict features from them.

        Args:
            image: (b 3 h w) float, ImageNet-normalised.
            feature: (b c h w) float, the backbone's output where it is known already.

        Returns:
            feature: (b c h w) float, target of the reconstruction.
            slots: (b s d) float.
            attention: (b s h w) float, sums to 1 over s.
            mask: (b s h w) float, the decoder's attention to the slots, sums to 1 over s.
            reconstruction: (b c h w) float.
        """
        feature = extract(self.backbone, image, feature)
        slots, attention = group(feature, self.projection, self.initializer(len(feature)), self.slot_attention)
        reconstruction, mask = self.decoder(feature, slots)
        return {
            "feature": feature,
            "slots": slots,
            "attention": attention,
            "mask": mask,
            "reconstruction": reconstruction,
        }


@register
class SPOTDistill(nn.Module):
    """Kakogeorgiou et al., CVPR 2024, second stage: a student learns slots from its teacher's decoder masks.

    Both get the same image. The student finds slots in features of a backbone of its own, whose last blocks may be
    trained; what it predicts, and what its decoder reads, are features of the teacher's backbone, which stays as it is.
    The loss adds to that of the first stage `learn.distillation.MatchedDistillation`, weighted.

    Args:
        teacher: the model of the first stage; frozen and always in eval mode.
        backbone, projection, initializer, slot_attention, decoder: the student's, as in `SPOT`.

    Raises:
        ValueError: widths or grids of parts that meet, or numbers of slots, differ.
    """

    def __init__(
        self,
        teacher: nn.Module,
        backbone: nn.Module,
        projection: nn.Module,
        initializer: nn.Module,
        slot_attention: nn.Module,
        decoder: nn.Module,
    ):
        super().__init__()
        require_fit(backbone, projection, initializer, slot_attention, decoder)
        slots = ("teacher's num_slots", teacher.initializer.num_slots, "initializer's num_slots", initializer.num_slots)
        features = ("teacher's backbone's dim", teacher.backbone.dim, "backbone's dim", backbone.dim)
        grids = ("teacher's backbone's grid", teacher.backbone.grid, "backbone's grid", backbone.grid)
        require_equal(slots, features, grids)
        self.teacher = teacher.requires_grad_(False)
        self.backbone = backbone
        self.projection = projection
        self.initializer = initializer
        self.slot_attention = slot_attention
        self.decoder = decoder
        zero_biases(projection)
        self.train(self.training)

    def train(self, mode: bool = True) -> "SPOTDistill":
        """Set training or eval mode; the teacher and the backbone, trained or not, stay in eval mode."""
        super().train(mode)
        self.teacher.eval()
        self.backbone.eval()
        return self

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Find objects, predict features from them, and tell where the teacher sees objects.

        Args:
            image: (b 3 h w) float, ImageNet-normalised.

        Returns:
            feature: (b c h w) float, of the teacher's backbone; target of the reconstruction.
            slots: (b s d) float.
            attention: (b s h w) float, sums to 1 over s.
            attention_logits: (b s h w) float, whose softmax over s is the attention.
            mask: (b s h w) float, the decoder's attention to the slots, sums to 1 over s.
            reconstruction: (b c h w) float.
            teacher_mask: (b s h w) float, the teacher's `mask`, without gradient.
        """
        with torch.no_grad():
            taught = self.teacher(image)
        tokens = self.projection(self.backbone(image).flatten(2).transpose(1, 2))  # b n c
        initial = self.initializer(len(image))
        key, value = self.slot_attention.embed(tokens)
        slots, attention, logits = self.slot_attention.refine_with_logits(initial, key, value)
        reconstruction, mask = self.decoder(taught["feature"], slots)
        return {
            "feature": taught["feature"],
            "slots": slots,
            "attention": attention.unflatten(2, self.backbone.grid),
            "attention_logits": logits.unflatten(2, self.backbone.grid),
            "mask": mask,
            "reconstruction": reconstruction,
            "teacher_mask": taught["mask"],
        }


def require_fit(
    backbone: nn.Module, projection: nn.Module, initializer: nn.Module, slot_attention: nn.Module, decoder: nn.Module
) -> None:
    """Raise `ValueError` if widths or grids of parts that meet differ."""
    require_equal(
        ("backbone's dim", backbone.dim, "projection's input width", projection.input_dim),
        ("projection's output width", projection.dim, "slot_attention's input_dim", slot_attention.input_dim),
        ("initializer's dim", initializer.dim, "slot_attention's dim", slot_attention.dim),
        ("slot_attention's dim", slot_attention.dim, "decoder's slot width", decoder.dim),
        ("backbone's grid", backbone.grid, "decoder's grid", decoder.grid),
        ("backbone's dim", backbone.dim, "decoder's output width", decoder.output_dim),
    )
