"""Keys of a vision transformer's last attention, which tell better than its output what moves where."""

from torch import Tensor, nn

from object_centric_bench.model.backbone import Backbone, resize_feature
from object_centric_bench.model.sizes import require_shape
from object_centric_bench.model.temporal import extract_frames, per_frame


def require_keys(backbone: nn.Module) -> None:
    """Raise `ValueError` if keys cannot be read: of vision transformers of timm with a layer `qkv` they can."""
    blocks = getattr(getattr(backbone, "model", None), "blocks", None)
    if not isinstance(backbone, Backbone) or not hasattr(getattr(blocks and blocks[-1], "attn", None), "qkv"):
        raise ValueError("keys: True needs a vision transformer of timm as backbone; measure similarity by features")


def features_and_keys(backbone: Backbone, image: Tensor) -> tuple[Tensor, Tensor]:
    """Run a backbone; return its feature (b c h w) and the keys (b k h w) of its last block, all heads side by side."""
    kept: list[Tensor] = []
    layer = backbone.model.blocks[-1].attn.qkv
    handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        feature = backbone(image)
    finally:
        handle.remove()
    tokens = kept.pop().chunk(3, dim=-1)[1]  # b n k
    grid = [side // size for side, size in zip(backbone.resolution, backbone.model.patch_embed.patch_size, strict=True)]
    tokens = tokens[:, tokens.shape[1] - grid[0] * grid[1] :]  # class and register tokens come first
    return feature, resize_feature(tokens.unflatten(1, grid).movedim(-1, 1), backbone.grid)


def extract_with_keys(
    backbone: nn.Module, video: Tensor | None, feature: Tensor | None, keys: bool
) -> dict[str, Tensor]:
    """Return the feature (b t c h w) of all frames, handed in or of the backbone, and if wanted the key (b t k h w).

    Raises:
        ValueError: neither video nor feature is given, keys are wanted and the video is missing, or a wrong shape.
    """
    if not keys:
        return {"feature": extract_frames(backbone, video, feature)}
    if video is None:
        raise ValueError("video is missing: keys are no part of a cached feature. Set cache_feature to False")
    require_shape("video", video, (None, None, 3, None, None))
    feature, key = per_frame(lambda image: features_and_keys(backbone, image), video)
    return {"feature": feature, "key": key}
