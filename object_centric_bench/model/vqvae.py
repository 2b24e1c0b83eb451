"""First stage of methods that tokenize images themselves: a quantizing autoencoder of images."""

import functools

from torch import Tensor, nn

from object_centric_bench.model.second_stage import fit_image
from object_centric_bench.model.sizes import require_equal, require_shape
from object_centric_bench.model.temporal import per_frame
from object_centric_bench.registry import register


@register
class VQVAE(nn.Module):
    """Learn codes from which images can be decoded; a second stage takes over the tokenizer.

    van den Oord et al., NeurIPS 2017 (VQ-VAE), as SLATE, STEVE and SlotDiffusion use it in the reference; with a
    `GroupedCodebook` or a `MultiScaleTokenizer` the first stage of GDR and MSF. Frames of a video are images.

    Args:
        tokenizer: images to codes and back.

    Raises:
        ValueError: the tokenizer does not take images, or has no decoder.
    """

    def __init__(self, tokenizer: nn.Module):
        super().__init__()
        require_equal(*fit_image(tokenizer))
        if tokenizer.decoder is None:
            raise ValueError("the tokenizer needs a decoder: the first stage learns by reconstructing images")
        self.tokenizer = tokenizer

    def forward(self, image: Tensor | None = None, video: Tensor | None = None) -> dict[str, Tensor | list[Tensor]]:
        """Quantize and reconstruct images, or every frame of videos.

        Args:
            image: (b 3 h w) float, ImageNet-normalised; or
            video: (b t 3 h w) float; all outputs have b t in place of b then, so that they fit the batch.

        Returns:
            latent: (b c h w) float, before quantization.
            code: (b h w) int64, or (b g h w) for several codes per place.
            quantized: (b c h w) float.
            mixed: (b c h w) float, blend of latent and quantized that is decoded.
            reconstruction: (b 3 h w) float, an image of half the size.
            With a multi-scale tokenizer each is a list, from the finest scale.

        Raises:
            ValueError: not exactly one of image and video is given, or its shape does not fit.
        """
        if (image is None) == (video is None):
            raise ValueError("VQVAE wants either image or video")
        if video is None:
            return self.tokenizer(image, sample=self.training)
        require_shape("video", video, (None, None, 3, None, None))
        return per_frame(functools.partial(self.tokenizer, sample=self.training), video)
