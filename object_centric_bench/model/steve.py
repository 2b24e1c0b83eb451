"""STEVE: slots that follow objects through a video predict the codes of every frame by a transformer."""

from torch import Tensor

from object_centric_bench.model.slate import SLATE
from object_centric_bench.model.temporal import VideoSecondStage, per_frame
from object_centric_bench.registry import register


@register
class STEVE(VideoSecondStage):
    """Singh et al., NeurIPS 2022, Fig. 1, on features of a vision model. Arguments: see `VideoSecondStage`.

    The tokenizer is any that takes images: a VQ-VAE, or one with several codes per place. The decoder maps code
    vectors and slots to logits. Deviations, of the reference: slots are found in a frozen backbone's features, they
    may start from boxes, and the tokenizer is trained before and frozen instead of trained along.
    """

    tokenizes_images = True
    fit = staticmethod(SLATE.fit)

    def forward(
        self,
        video: Tensor | None = None,
        box: Tensor | None = None,
        feature: Tensor | None = None,
        code: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Follow objects and predict the codes of every frame from them.

        Args:
            video: (b t 3 h w) float, ImageNet-normalised.
            box: (b t n 4) float, left, top, right, bottom in 0..1; a slot starts from each of the first frame's n.
                Needed if the initializer takes boxes.
            feature: (b t c h w) float, the backbone's output where it is known already.
            code: (b t h w) int64, the tokenizer's nearest where they are known already.

        Returns:
            feature: (b t c h w) float.
            code: (b t h w) int64, or (b t g h w) with g codes per place; target of the logits.
            quantized: (b t d h w) float, the code vectors.
            slots: (b t s d) float.
            attention: (b t s h w) float, sums to 1 over s.
            logits: (b t k h w) float, k being the sum of the classes of g codes.
        """
        output = self.find_slots(video, box, feature)
        token = self.tokenize_frames(video, code)
        logits = per_frame(self.decoder, token["quantized"], output["slots"])
        return {**output, **token, "logits": logits}
