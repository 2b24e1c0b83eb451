"""What frozen parts give for a picture never changes: which of it a method takes ready-made, and computing it alone."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from object_centric_bench.model.freezing import is_frozen
from object_centric_bench.model.temporal import per_frame


def reusable(network: nn.Module) -> dict[str, list[str]]:
    """Return what `forward` takes in place of pictures, and the parts that it comes from; all of them are frozen.

    `feature` is the backbone's output. `code` is that of a tokenizer of images or of features, the nearest ones: not
    what a model in training may draw.
    """
    taken = inspect.signature(network.forward).parameters
    backbone, tokenizer = getattr(network, "backbone", None), getattr(network, "tokenizer", None)
    found = {}
    if "feature" in taken and backbone is not None and is_frozen(backbone) and not getattr(network, "keys", False):
        found["feature"] = ["backbone"]
    usable = "code" in taken and is_frozen(tokenizer) and not getattr(network, "continuous_target", False)
    if usable and (network.tokenizes_images or "feature" in found):
        found["code"] = ["tokenizer"] if network.tokenizes_images else ["backbone", "tokenizer"]
    return found


def needs_pictures(network: nn.Module, entries: set[str]) -> bool:
    """Tell whether `forward` computes something from pictures although it is handed these entries."""
    return "feature" not in entries or (getattr(network, "tokenizes_images", False) and "code" not in entries)


@torch.no_grad()
def compute(network: nn.Module, batch: dict[str, Tensor], entries: set[str]) -> dict[str, Tensor]:
    """Run the frozen parts alone.

    Args:
        network: the method, on the batch's device.
        batch: `image` (b 3 h w) or `video` (b t 3 h w), ImageNet-normalised.
        entries: names, of those that `reusable` gives.

    Returns:
        feature: (b c h w) or (b t c h w) float.
        code: (b h w) or (b g h w), of videos (b t ...), int64.
    """
    video = "video" in batch
    picture = batch["video" if video else "image"]

    def run(part: nn.Module, given: Tensor) -> Any:
        part.eval()
        return per_frame(part, given) if video else part(given)

    found = {}
    wants_code = "code" in entries
    if "feature" in entries or (wants_code and not network.tokenizes_images):
        found["feature"] = run(network.backbone, picture)
    if wants_code:
        found["code"] = run(network.tokenizer, picture if network.tokenizes_images else found["feature"])["code"]
    return {name: found[name] for name in entries}
