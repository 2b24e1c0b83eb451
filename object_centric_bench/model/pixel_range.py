"""The values of pixels: pictures are ImageNet-normalised everywhere here, TAESD's are in [0, 1]."""

import torch
from torch import Tensor, nn

from object_centric_bench.model.backbone import IMAGENET_MEAN, IMAGENET_STD


class PixelRange(nn.Module):
    """Converts pictures from ImageNet's normalisation to [0, 1], and back.

    Args:
        published: convert as if pictures were in [-1, 1], x -> (x + 1) / 2, as the reference does: what it gives for
            ImageNet-normalised ones is from -0.6 to 1.8. Its published numbers depend on that.
    """

    def __init__(self, published: bool):
        super().__init__()
        scale, shift = ([0.5] * 3, [0.5] * 3) if published else (IMAGENET_STD, IMAGENET_MEAN)
        self.register_buffer("scale", torch.tensor(scale).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Map pictures (b 3 h w) float, ImageNet-normalised, to values for TAESD."""
        return image * self.scale + self.shift

    def invert(self, picture: Tensor) -> Tensor:
        """Map what TAESD gives, (b 3 h w) float, to ImageNet-normalised pictures."""
        return (picture - self.shift) / self.scale
