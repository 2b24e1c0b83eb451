"""Vision models as feature extractors: any of timm's or Hugging Face transformers', behind one class."""

import logging
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from object_centric_bench.model.freezing import Freezable, no_grad_if_frozen
from object_centric_bench.model.provider import build_timm, build_transformers, transformers_states
from object_centric_bench.model.sizes import require_shape
from object_centric_bench.registry import register

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

log = logging.getLogger(__name__)


@register
class Backbone(Freezable):
    """A vision model that turns images into one map of features; frozen unless `trainable`.

    Vision transformers give the patch tokens of one block after the final norm, convolutional networks one or more
    of their levels. Several levels are resized to one grid and joined along the channels.

    Args:
        provider: "timm" or "transformers".
        name: the provider's model name; for transformers a hub name, a local folder, or (for random weights and for
            `weights`) a model type such as "dinov2", whose configuration `options` gives.
        resolution: [h, w] in pixels at which the model runs; images of another size are resized to it.
        level: block of a transformer or level of a convolutional network, from 0, negative from the end.
        pretrained: False starts from random weights.
        weights: a local file, or the name of packaged weights (`weights.PACKAGED`); None asks the hub and its cache.
        options: further arguments of the architecture, e.g. `embed_dim` and `depth`.
        grid: [h, w] of the feature map; None keeps that of the model, or that of the finest of several levels.
        interpolation: how an image is brought to `resolution`, never with antialiasing.
        final_norm: apply a transformer's final norm.
        normalize: norm each level over its channels at every place, without trained scale, so that levels weigh alike.
        level_scale: a factor per level, which makes them weigh alike too but keeps the contrast between places.
        mean, std: of the images that the model was trained on, for values in [0, 1]; None takes timm's record, or
            ImageNet's statistics. Images arrive with ImageNet's and are converted.
        trainable: let the parameters be trained.

    Raises:
        WeightsError: pretrained weights cannot be had or do not fit.
        ValueError: an unknown model or level, or a resolution that is not a multiple of the patch size.
    """

    def __init__(
        self,
        provider: str,
        name: str,
        resolution: list[int],
        level: int | list[int] = -1,
        pretrained: bool = True,
        weights: str | None = None,
        options: dict | None = None,
        grid: list[int] | None = None,
        interpolation: str = "bicubic",
        final_norm: bool = True,
        normalize: bool = False,
        level_scale: list[float] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        trainable: bool = False,
    ):
        super().__init__()
        if len(resolution) != 2 or min(resolution) < 1:
            raise ValueError(f"resolution is [h, w] in pixels, got {resolution}")
        if interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation is 'bilinear' or 'bicubic', got {interpolation!r}")
        if weights is not None and not pretrained:
            raise ValueError(f"weights {weights!r} are given but pretrained is False")
        if level_scale is not None and (isinstance(level, int) or len(level_scale) != len(level)):
            raise ValueError(f"level_scale needs one factor per level of {level}, got {level_scale}")
        self.provider = provider
        self.resolution = list(resolution)
        self.interpolation = interpolation
        self.final_norm = final_norm
        self.normalize = normalize
        self.level_scale = level_scale
        levels = [level] if isinstance(level, int) else list(level)
        if provider == "timm":
            self.model, self.levels, info = build_timm(name, self.resolution, levels, pretrained, weights, options)
            default_mean, default_std = self.model.pretrained_cfg["mean"], self.model.pretrained_cfg["std"]
        elif provider == "transformers":
            if not final_norm:
                raise ValueError("final_norm: False needs provider 'timm'; transformers hands out normed features only")
            self.model, self.levels, info = build_transformers(
                name, self.resolution, levels, pretrained, weights, options
            )
            default_mean, default_std = IMAGENET_MEAN, IMAGENET_STD
        else:
            raise ValueError(f"provider is 'timm' or 'transformers', got {provider!r}")
        convolutional = provider == "timm" and not hasattr(self.model, "patch_embed")
        self.memory_format = torch.channels_last if convolutional else torch.contiguous_format  # twice as fast on CPUs
        self.model.to(memory_format=self.memory_format)
        if not pretrained:
            log.warning("backbone %s starts from random weights", name)
        self.level_dims = [dim for dim, _ in info]
        self.level_grids = [[math.ceil(side / reduction) for side in resolution] for _, reduction in info]
        self.dim = sum(self.level_dims)
        self.grid = list(grid) if grid is not None else max(self.level_grids)
        self._set_statistics(mean or default_mean, std or default_std)
        self.requires_grad_(trainable)
        self.train(self.training)

    def _set_statistics(self, mean: list[float], std: list[float]) -> None:
        """Prepare image * scale + shift, which exchanges ImageNet's statistics for those the model was trained with."""
        self.converts = tuple(mean) != IMAGENET_MEAN or tuple(std) != IMAGENET_STD
        own_mean, own_std = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
        imagenet_mean, imagenet_std = (
            torch.tensor(IMAGENET_MEAN).view(-1, 1, 1),
            torch.tensor(IMAGENET_STD).view(-1, 1, 1),
        )
        self.register_buffer("scale", imagenet_std / own_std, persistent=False)
        self.register_buffer("shift", (imagenet_mean - own_mean) / own_std, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Extract features.

        Args:
            image: (b 3 h w) float, RGB, ImageNet-normalised.

        Returns:
            (b c h w) float of `dim` channels on `grid`.

        Raises:
            ValueError: the image has another number of channels, or the model gives another grid than expected.
        """
        require_shape("image", image, (None, 3, None, None))
        with no_grad_if_frozen(self):
            if list(image.shape[2:]) != self.resolution:
                image = functional.interpolate(image, self.resolution, mode=self.interpolation, align_corners=False)
            if self.converts:
                image = image * self.scale + self.shift
            image = image.contiguous(memory_format=self.memory_format)
            features = self._timm_features(image) if self.provider == "timm" else self._transformers_features(image)
            return self._join(features)

    def resume(self, tokens: Tensor, block: int) -> Tensor:
        """Go on from the tokens (b n c) that enter a block of a vision transformer of timm to its feature (b c h w)."""
        with no_grad_if_frozen(self):
            self._choose_attention(tokens)
            tokens = self.model.blocks[block:](tokens)
            tokens = self.model.norm(tokens) if self.final_norm else tokens
            patches = tokens[:, self.model.num_prefix_tokens :]  # class and register tokens come first
            return self._join([patches.transpose(1, 2).unflatten(2, self.level_grids[-1]).contiguous()])

    def _choose_attention(self, tensor: Tensor) -> None:
        """Set timm's switch between PyTorch's kernel and products, see `attention.attend`."""
        half = tensor.device.type == "cpu" and (tensor.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu"))
        for part in self.model.modules():
            if hasattr(part, "fused_attn"):
                part.fused_attn = not half  # type: ignore[assignment]  # a plain attribute

    def _timm_features(self, image: Tensor) -> list[Tensor]:
        self._choose_attention(image)
        return self.model.forward_intermediates(
            image, indices=self.levels, norm=self.final_norm, output_fmt="NCHW", intermediates_only=True
        )

    def _transformers_features(self, image: Tensor) -> list[Tensor]:
        return transformers_states(self.model, image, self.levels, self.resolution)

    def _join(self, features: list[Tensor]) -> Tensor:
        """Bring the levels' features to one grid, side by side along the channels."""
        features = [self._to_grid(feature) for feature in features]
        if self.level_scale is not None:
            features = [feature * scale for feature, scale in zip(features, self.level_scale, strict=True)]
        return torch.cat(features, dim=1)

    def _to_grid(self, feature: Tensor) -> Tensor:
        if self.normalize:
            feature = functional.layer_norm(feature.movedim(1, -1), feature.shape[1:2]).movedim(-1, 1)
        return resize_feature(feature, self.grid)


def extract(backbone: nn.Module, image: Tensor | None, feature: Tensor | None) -> Tensor:
    """Return the feature handed in (a cached one), or else the backbone's of the image.

    Raises:
        ValueError: neither is given, or the feature's shape is not the backbone's.
    """
    if feature is None:
        if image is None:
            raise ValueError("neither image nor feature is given")
        return backbone(image)
    require_shape("feature", feature, (None, backbone.dim, *backbone.grid))  # type: ignore[misc]  # a list of two
    return feature


def resize_feature(feature: Tensor, grid: list[int]) -> Tensor:
    """Bring a map of features (b c h w) to a grid [h, w]: averages where it shrinks, bilinear where it grows."""
    if list(feature.shape[2:]) == list(grid):
        return feature
    if feature.shape[2] >= grid[0] and feature.shape[3] >= grid[1]:
        return functional.adaptive_avg_pool2d(feature, grid)
    return functional.interpolate(feature, grid, mode="bilinear", align_corners=False)
