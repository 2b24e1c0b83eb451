"""VVO on video: slots follow objects, and decode every frame as on images."""

import torch
from torch import Tensor

from object_centric_bench.model.temporal import VideoSecondStage, decode_slots, per_frame, valid_slots
from object_centric_bench.model.vvo import VVODfz, VVOMlp, VVOTfd
from object_centric_bench.registry import register


@register
class VVOTfdT(VideoSecondStage):
    """Second stage of VVO with an autoregressive decoder: slots predict the codes of every frame.

    Zhao et al., 2025 (Vector-Quantized Vision Foundation Models for Object-Centric Learning), Sec. 3. Arguments: see
    `VideoSecondStage`. The decoder maps code vectors and slots to logits.
    """

    fit = staticmethod(VVOTfd.fit)

    def forward(
        self,
        video: Tensor | None = None,
        box: Tensor | None = None,
        feature: Tensor | None = None,
        code: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Follow objects and predict codes from them.

        Args:
            video: (b t 3 h w) float, ImageNet-normalised.
            box: (b t n 4) float, left, top, right, bottom in 0..1; a slot starts from each of the first frame's n.
                Needed if the initializer takes boxes.
            feature: (b t c h w) float, the backbone's output where it is known already.
            code: (b t h w) int64, the tokenizer's nearest where they are known already.

        Returns:
            feature: (b t c h w) float.
            code: (b t h w) int64, target of the logits.
            quantized: (b t d h w) float, the code vectors.
            slots: (b t s d) float.
            attention: (b t s h w) float, sums to 1 over s.
            logits: (b t k h w) float.
        """
        output = self.find_slots(video, box, feature)
        token = self.tokenize_frames(output["feature"], code)
        logits = per_frame(self.decoder, token["quantized"], output["slots"])
        return {**output, **token, "logits": logits}


@register
class VVOMlpT(VideoSecondStage):
    """Second stage of VVO with a mixture decoder: slots reconstruct codes and features of every frame.

    Arguments: see `VideoSecondStage`. The decoder maps slots to code vector and feature side by side, and masks.
    """

    fit = staticmethod(VVOMlp.fit)

    def forward(
        self,
        video: Tensor | None = None,
        box: Tensor | None = None,
        feature: Tensor | None = None,
        code: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Follow objects and reconstruct code vectors and features from them.

        Args:
            video: (b t 3 h w) float, ImageNet-normalised.
            box: (b t n 4) float, left, top, right, bottom in 0..1; a slot starts from each of the first frame's n.
                Needed if the initializer takes boxes.
            feature: (b t c h w) float, the backbone's output where it is known already.
            code: (b t h w) int64, the tokenizer's nearest where they are known already.

        Returns:
            feature: (b t c h w) float, target of `feature_reconstruction`.
            code: (b t h w) int64.
            quantized: (b t e h w) float, target of `quantized_reconstruction`.
            slots: (b t s d) float.
            attention: (b t s h w) float, sums to 1 over s.
            mask: (b t s h w) float, the decoder's blend weights, sums to 1 over s.
            quantized_reconstruction: (b t e h w) float.
            feature_reconstruction: (b t c h w) float.
        """
        output = self.find_slots(video, box, feature)
        token = self.tokenize_frames(output["feature"], code)
        reconstruction, mask = decode_slots(self.decoder, output["slots"], valid_slots(self.initializer, box))
        quantized, feature = reconstruction.split([self.tokenizer.dim, self.backbone.dim], dim=2)
        return {
            **output,
            **token,
            "mask": mask,
            "quantized_reconstruction": quantized,
            "feature_reconstruction": feature,
        }


@register
class VVODfzT(VideoSecondStage):
    """Second stage of VVO with a diffusion decoder: slots guide denoising the codes of every frame.

    Arguments: see `VideoSecondStage`. The decoder adds noise to code vectors and predicts that noise from slots.
    """

    fit = staticmethod(VVODfz.fit)

    def forward(
        self,
        video: Tensor | None = None,
        box: Tensor | None = None,
        feature: Tensor | None = None,
        timestep: Tensor | None = None,
        noise: Tensor | None = None,
        code: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Follow objects and predict noise from them.

        Args:
            video: (b t 3 h w) float, ImageNet-normalised.
            box: (b t n 4) float, left, top, right, bottom in 0..1; a slot starts from each of the first frame's n.
                Needed if the initializer takes boxes.
            feature: (b t c h w) float, the backbone's output where it is known already.
            code: (b t h w) int64, the tokenizer's nearest where they are known already.
            timestep: (b t) int64, how far to diffuse; drawn for each frame if not given.
            noise: (b t e h w) float, standard normal; drawn if not given.

        Returns:
            feature: (b t c h w) float.
            code: (b t h w) int64.
            quantized: (b t e h w) float, the code vectors, which are denoised.
            slots: (b t s d) float.
            attention: (b t s h w) float, sums to 1 over s.
            prediction: (b t e h w) float, of the noise.
            noise: (b t e h w) float, target of the prediction.
        """
        output = self.find_slots(video, box, feature)
        token = self.tokenize_frames(output["feature"], code)
        latent = token["quantized"]
        # drawn here for all frames: the decoder, which sees them in chunks, would draw others for other chunks
        if timestep is None:
            timestep = torch.randint(self.decoder.num_steps, latent.shape[:2], device=latent.device)
        if noise is None:
            noise = torch.randn_like(latent, dtype=torch.promote_types(latent.dtype, torch.float32))
        prediction, noise = per_frame(self.decoder, latent, output["slots"], timestep, noise)
        return {**output, **token, "prediction": prediction, "noise": noise}
