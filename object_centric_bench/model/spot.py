"""SPOT: slots that predict features by a transformer reading patches in nine orders, then teach a second model."""

import torch
from torch import Tensor, nn

from object_centric_bench.model.assembly import assemble, fit_reconstruction
from object_centric_bench.model.backbone import extract
from object_centric_bench.model.mlp import start_by_xavier
from object_centric_bench.model.slot_attention import group
from object_centric_bench.model.trunk import extract_both, share_blocks
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
        xavier: draw the first weights of projection and slot attention by the paper's rules, see
            `mlp.start_by_xavier`; False as those of the other methods here.

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
        xavier: bool = False,
    ):
        super().__init__()
        parts = backbone, projection, initializer, slot_attention, decoder
        assemble(self, *parts, fit=[fit_reconstruction(backbone, decoder)])
        if xavier:
            start_by_xavier(nn.ModuleList([projection, slot_attention]))

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
        backbone, projection, initializer, slot_attention, decoder, xavier: the student's, as in `SPOT`.
        shared_blocks: number of first blocks of a vision transformer that the student has in common with its teacher,
            never trained and run once for both; 0 for none.

    Raises:
        ValueError: widths or grids of parts that meet, or numbers of slots, differ, or blocks cannot be shared.
    """

    def __init__(
        self,
        teacher: nn.Module,
        backbone: nn.Module,
        projection: nn.Module,
        initializer: nn.Module,
        slot_attention: nn.Module,
        decoder: nn.Module,
        xavier: bool = False,
        shared_blocks: int = 0,
    ):
        super().__init__()
        taught = [
            ("teacher's num_slots", teacher.initializer.num_slots, "initializer's num_slots", initializer.num_slots),
            ("teacher's backbone's dim", teacher.backbone.dim, "backbone's dim", backbone.dim),
            ("teacher's backbone's grid", teacher.backbone.grid, "backbone's grid", backbone.grid),
        ]
        if shared_blocks:
            share_blocks(teacher.backbone, backbone, shared_blocks)
        self.shared_blocks = shared_blocks
        self.teacher = teacher.requires_grad_(False)
        parts = backbone, projection, initializer, slot_attention, decoder
        assemble(self, *parts, fit=[fit_reconstruction(backbone, decoder), *taught])
        if xavier:
            start_by_xavier(nn.ModuleList([projection, slot_attention]))
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
        if self.shared_blocks:
            feature, own = extract_both(self.teacher.backbone, self.backbone, self.shared_blocks, image)
        else:
            feature, own = None, self.backbone(image)
        with torch.no_grad():
            taught = self.teacher(image, feature)
        tokens = self.projection(own.flatten(2).transpose(1, 2))  # b n c
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
