"""VideoSAUR: slots that follow objects through a video reconstruct features and predict where places move."""

from math import prod

from torch import Tensor, nn

from object_centric_bench.model.assembly import assemble
from object_centric_bench.model.keys import extract_with_keys, require_keys
from object_centric_bench.model.temporal import decode_slots, follow, needs_box, valid_slots
from object_centric_bench.registry import register


@register
class VideoSAUR(nn.Module):
    """Zadaianchuk et al., NeurIPS 2023, Fig. 2.

    Args:
        backbone: images to features; the paper takes them before the backbone's final norm.
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
        fit = [
            ("slot_attention's dim", slot_attention.dim, "predictor's dim", predictor.dim),
            ("features' plus similarity's width", sum(self.widths), "decoder's output width", decoder.output_dim),
        ]
        if keys:
            require_keys(backbone)
        assemble(self, backbone, projection, initializer, slot_attention, decoder, fit, predictor=predictor)
        self.keys = keys
        self.needs = ("video", "box") if needs_box(initializer) else ("video",)

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
        found = follow(self, sources["feature"], box)
        decoded, mask = decode_slots(self.decoder, found["slots"], valid_slots(self.initializer, box))
        reconstruction, similarity = decoded.split(self.widths, dim=2)
        return {**sources, **found, "mask": mask, "reconstruction": reconstruction, "similarity": similarity}
