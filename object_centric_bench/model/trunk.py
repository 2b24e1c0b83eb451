"""Two vision transformers with their first blocks in common, which run only once."""

import torch
from torch import Tensor, nn

from object_centric_bench.model.backbone import Backbone


def share_blocks(source: nn.Module, other: nn.Module, count: int) -> None:
    """Give a backbone the first blocks of another, and what comes before them: the modules, not copies.

    Args:
        source: a vision transformer of timm whose features are those of one block, its last.
        other: one of the same sizes, which keeps its blocks from `count` on.
        count: number of blocks, at least 1.

    Raises:
        ValueError: other kinds of backbones, other sizes, or fewer blocks.
    """
    for backbone in (source, other):
        blocks = getattr(getattr(backbone, "model", None), "blocks", None)
        if not isinstance(backbone, Backbone) or not isinstance(blocks, nn.Sequential):
            raise ValueError(f"shared_blocks: {count} needs vision transformers of timm as backbones, or 0")
        if not 1 <= count < len(blocks) or backbone.levels != [len(blocks) - 1]:
            raise ValueError(
                f"shared_blocks is 1 to {len(blocks) - 1} of a backbone that gives its last block of "
                f"{len(blocks)}, got {count} and levels {backbone.levels}"
            )
    if shapes(source) != shapes(other) or source.resolution != other.resolution:
        raise ValueError("shared_blocks: teacher's and student's backbones differ in kind or resolution")
    for name, part in source.model.named_children():
        if name not in ("blocks", "norm"):
            setattr(other.model, name, part)
    for name, parameter in source.model.named_parameters(recurse=False):  # positions, class and register tokens
        setattr(other.model, name, parameter)
    for index in range(count):
        other.model.blocks[index] = source.model.blocks[index]


def shapes(module: nn.Module) -> dict[str, list[int]]:
    """Return the shape of every tensor by its name."""
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def extract_both(source: Backbone, other: Backbone, count: int, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features (b c h w) of two backbones that share `count` blocks; gradients reach the other's own only.

    Args:
        source, other, count: see `share_blocks`.
        image: (b 3 h w) float, ImageNet-normalised.
    """
    kept: list[Tensor] = []
    handle = source.model.blocks[count].register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    try:
        with torch.no_grad():
            feature = source(image)
    finally:
        handle.remove()
    return feature, other.resume(kept.pop(), count)
