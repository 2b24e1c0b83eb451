"""VVO: object-centric learning on the shared, quantized features of a vision foundation model."""

from functools import partial

from torch import Tensor, nn

from object_centric_bench.model.backbone import extract
from object_centric_bench.model.second_stage import SecondStage, fit_codes, fit_denoising, fit_feature
from object_centric_bench.model.sizes import require_equal
from object_centric_bench.model.temporal import extract_frames, per_frame
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
        require_equal(*fit_feature(backbone, tokenizer))
        if tokenizer.decoder is None:
            raise ValueError("the tokenizer needs a decoder: the first stage learns by reconstructing images")
        self.backbone = backbone
        self.tokenizer = tokenizer

    def forward(
        self, image: Tensor | None = None, video: Tensor | None = None, feature: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Quantize and reconstruct images, or the frames of videos: then all tensors start with b t instead of b.

        Args:
            image: (b 3 h w) float, ImageNet-normalised.
            video: (b t 3 h w) float, in place of images.
            feature: (b c h w) or (b t c h w) float, the backbone's output where it is known already.

        Returns:
            feature: (b c h w) float.
            latent: (b d h w) float, before quantization.
            code: (b h w) int64.
            quantized: (b d h w) float.
            mixed: (b d h w) float, blend of latent and quantized that is decoded.
            reconstruction: (b 3 h w) float, an image 8 times the features' size.

        Raises:
            ValueError: both images and videos, or nothing, are given.
        """
        if image is not None and video is not None:
            raise ValueError("both image and video are given")
        tokenize = partial(self.tokenizer, sample=self.training)
        if video is not None or (feature is not None and feature.ndim == 5):
            feature = extract_frames(self.backbone, video, feature)
            return {"feature": feature, **per_frame(tokenize, feature)}
        feature = extract(self.backbone, image, feature)
        return {"feature": feature, **tokenize(feature)}


@register
class VVOTfd(SecondStage):
    """Second stage of VVO with an autoregressive decoder: slots predict the codes. Arguments: see `SecondStage`.

    The decoder maps code vectors and slots to logits.
    """

    @staticmethod
    def fit(backbone: nn.Module, tokenizer: nn.Module, decoder: nn.Module) -> list[tuple]:
        """Features are tokenized, code vectors are the decoder's tokens, codes its classes."""
        return [*fit_feature(backbone, tokenizer), *fit_codes(tokenizer, decoder)]

    def forward(
        self, image: Tensor | None = None, feature: Tensor | None = None, code: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Find objects and predict codes from them.

        Args:
            image: (b 3 h w) float, ImageNet-normalised.
            feature: (b c h w) float, the backbone's output where it is known already.
            code: (b h w) int64, the tokenizer's nearest where they are known already.

        Returns:
            feature: (b c h w) float.
            code: (b h w) int64, target of the logits.
            quantized: (b d h w) float, the code vectors.
            slots: (b s d) float.
            attention: (b s h w) float, sums to 1 over s.
            logits: (b k h w) float.
        """
        output = self.find_slots(image, feature)
        token = self.tokenize(output["feature"], code)
        logits = self.decoder(token["quantized"], output["slots"])
        return {**output, **token, "logits": logits}


@register
class VVOTfd9(SecondStage):
    """VVO-Tfd whose decoder reads the codes in SPOT's nine orders; defined here, nobody has published it.

    Arguments: see `SecondStage`. The decoder maps code vectors and slots to logits and masks.
    """

    fit = staticmethod(VVOTfd.fit)

    def forward(
        self, image: Tensor | None = None, feature: Tensor | None = None, code: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Find objects and predict codes from them.

        Args:
            image: (b 3 h w) float, ImageNet-normalised.
            feature: (b c h w) float, the backbone's output where it is known already.
            code: (b h w) int64, the tokenizer's nearest where they are known already.

        Returns:
            feature: (b c h w) float.
            code: (b h w) int64, target of the logits.
            quantized: (b d h w) float, the code vectors.
            slots: (b s d) float.
            attention: (b s h w) float, sums to 1 over s.
            mask: (b s h w) float, the decoder's attention to the slots, sums to 1 over s.
            logits: (b k h w) float.
        """
        output = self.find_slots(image, feature)
        token = self.tokenize(output["feature"], code)
        logits, mask = self.decoder(token["quantized"], output["slots"])
        return {**output, **token, "mask": mask, "logits": logits}


@register
class VVOMlp(SecondStage):
    """Second stage of VVO with a mixture decoder: slots reconstruct codes and features. Arguments: see `SecondStage`.

    The decoder maps slots to code vector and feature side by side, and masks.
    """

    @staticmethod
    def fit(backbone: nn.Module, tokenizer: nn.Module, decoder: nn.Module) -> list[tuple]:
        """Features are tokenized; code vector and feature lie side by side in the decoder's output."""
        width = tokenizer.dim + backbone.dim
        sides = ("tokenizer's dim plus backbone's dim", width, "decoder's output width", decoder.output_dim)
        return [*fit_feature(backbone, tokenizer), sides]

    def forward(
        self, image: Tensor | None = None, feature: Tensor | None = None, code: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Find objects and reconstruct code vectors and features from them.

        Args:
            image: (b 3 h w) float, ImageNet-normalised.
            feature: (b c h w) float, the backbone's output where it is known already.
            code: (b h w) int64, the tokenizer's nearest where they are known already.

        Returns:
            feature: (b c h w) float, target of `feature_reconstruction`.
            code: (b h w) int64.
            quantized: (b e h w) float, target of `quantized_reconstruction`.
            slots: (b s d) float.
            attention: (b s h w) float, sums to 1 over s.
            mask: (b s h w) float, the decoder's blend weights, sums to 1 over s.
            quantized_reconstruction: (b e h w) float.
            feature_reconstruction: (b c h w) float.
        """
        output = self.find_slots(image, feature)
        token = self.tokenize(output["feature"], code)
        reconstruction, mask = self.decoder(output["slots"])
        quantized, feature = reconstruction.split([self.tokenizer.dim, self.backbone.dim], dim=1)
        return {
            **output,
            **token,
            "mask": mask,
            "quantized_reconstruction": quantized,
            "feature_reconstruction": feature,
        }


@register
class VVODfz(SecondStage):
    """Second stage of VVO with a diffusion decoder: slots guide denoising the codes. Arguments: see `SecondStage`.

    The decoder adds noise to code vectors and predicts that noise from slots.
    """

    @staticmethod
    def fit(backbone: nn.Module, tokenizer: nn.Module, decoder: nn.Module) -> list[tuple]:
        """Features are tokenized; the decoder denoises code vectors."""
        return [*fit_feature(backbone, tokenizer), *fit_denoising(tokenizer, decoder)]

    def forward(
        self,
        image: Tensor | None = None,
        feature: Tensor | None = None,
        timestep: Tensor | None = None,
        noise: Tensor | None = None,
        code: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Find objects and predict noise from them.

        Args:
            image: (b 3 h w) float, ImageNet-normalised.
            feature: (b c h w) float, the backbone's output where it is known already.
            code: (b h w) int64, the tokenizer's nearest where they are known already.
            timestep: (b) int64, how far to diffuse; drawn if not given.
            noise: (b e h w) float, standard normal; drawn if not given.

        Returns:
            feature: (b c h w) float.
            code: (b h w) int64.
            quantized: (b e h w) float, the code vectors, which are denoised.
            slots: (b s d) float.
            attention: (b s h w) float, sums to 1 over s.
            prediction: (b e h w) float, of the noise.
            noise: (b e h w) float, target of the prediction.
        """
        output = self.find_slots(image, feature)
        token = self.tokenize(output["feature"], code)
        prediction, noise = self.decoder(token["quantized"], output["slots"], timestep, noise)
        return {**output, **token, "prediction": prediction, "noise": noise}
