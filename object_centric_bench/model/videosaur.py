"""VideoSAUR: slots that follow objects through a video reconstruct features and predict where places move."""

from math import prod

from torch import Tensor, nn

from object_centric_bench.model.keys import extract_with_keys, require_keys
from object_centric_bench.model.mlp import zero_biases
from object_centric_bench.model.sizes import require_equal
from object_centric_bench.model.temporal import group_frames, needs_box, per_frame, start_slots
from object_centric_bench.registry import register


@register
class VideoSAUR(nn.Module):
    """Zadaianchuk et al., NeurIPS 2023, Fig. 2.

    Args:
        backbone: images to features.
        projection: features to the tokens of slot attention.
        initializer: batch size, or boxes of the first frame, to initial slots.
        slot_attention: tokens and initial slots to slots.
        predictor: slots of a frame to initial slots of the next.
        decoder: slots to features and similarity logits side by side, and masks.
        keys: give the backbone's last keys too, by which the paper measures similarity.
        reconstruct: the decoder gives features; False leaves the similarity only, as the paper does on MOVi.

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
        decoder: nn.Module,
        keys: bool = False,
        reconstruct: bool = True,
    ):
        super().__init__()
        places = prod(backbone.grid)
        self.widths = [backbone.dim if reconstruct else 0, places]
        require_equal(
            ("backbone's dim", backbone.dim, "projection's input width", projection.input_dim),
            ("projection's output width", projection.dim, "slot_attention's input_dim", slot_attention.input_dim),
            ("initializer's dim", initializer.dim, "slot_attention's dim", slot_attention.dim),
            ("slot_attention's dim", slot_attention.dim, "predictor's dim", predictor.dim),
            ("slot_attention's dim", slot_attention.dim, "decoder's slot width", decoder.dim),
            ("backbone's grid", backbone.grid, "decoder's grid", decoder.grid),
            ("features' plus similarity's width", sum(self.widths), "decoder's output width", decoder.output_dim),
        )
        if keys:
            require_keys(backbone)
        self.backbone = backbone
        self.projection = projection
        self.initializer = initializer
        self.slot_attention = slot_attention
        self.predictor = predictor
        self.decoder = decoder
        self.keys = keys
        self.needs = ("video", "box") if needs_box(initializer) else ("video",)
        zero_biases(projection)

    def forward(
        self, video: Tensor | None = None, box: Tensor | None = None, feature: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Follow objects, reconstruct features and predict similarities from them.

        Args:
            video: (b t 3 h w) float, ImageNet-normalised.
            box: (b t n 4) float, left, top, right, bottom in 0..1; needed if the initializer takes boxes.
            feature: (b t c h w) float, the backbone's output where it is known already; not with `keys`.

        Returns:
            feature: (b t c h w) float, target of `reconstruction`.
            key: (b t c h w) float, with `keys` only.
            slots: (b t s d) float.
            attention: (b t s h w) float, sums to 1 over s.
            mask: (b t s h w) float, the decoder's weights of the slots, sums to 1 over s.
            reconstruction: (b t c h w) float, without channels if the decoder gives none.
            similarity: (b t n h w) float, logits over the n places of a later frame for every place.
        """
        sources = extract_with_keys(self.backbone, video, feature, self.keys)
        feature = sources["feature"]
        initial = start_slots(self.initializer, box, len(feature))
        slots, attention = group_frames(feature, self.projection, initial, self.slot_attention, self.predictor)
        decoded, mask = per_frame(self.decoder, slots)
        reconstruction, similarity = decoded.split(self.widths, dim=2)
        found = {"slots": slots, "attention": attention, "mask": mask}
        return {**sources, **found, "reconstruction": reconstruction, "similarity": similarity}
