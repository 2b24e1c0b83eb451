"""Callbacks that compute, between the model and its losses and metrics; `log` and `save` hold those that write."""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import register
from .path import fetch, fetch_tensor
from .run import Run

log = logging.getLogger(__name__)


@register
class MaskToSegment:
    """Turn soft masks into an index map, `output.segment`: bilinear to the picture's size, then the largest slot.

    Runs only where metrics or pictures need it. Ties go to the first slot; there is no threshold.
    """

    def __init__(self, mask: str, size: list[int]):
        self.mask, self.size = mask, size
        self.crowded: Tensor | int = 0  # evaluated samples with more objects than masks
        self.most: Tensor | int = 0  # objects of any of them
        self.samples, self.slots, self.warned = 0, 0, False

    def state_dict(self) -> dict:
        """Return what was counted."""
        counts = {"crowded": int(self.crowded), "most": int(self.most)}
        return {**counts, "samples": self.samples, "warned": self.warned}

    def load_state_dict(self, state: dict) -> None:
        """Take over what was counted; older versions counted less, or nothing."""
        if state:
            self.crowded, self.samples, self.warned = state["crowded"], state["samples"], state["warned"]
            self.most = state.get("most", 0)

    def after_forward(self, run: Run) -> None:
        """Add `output.segment` (b h w) or (b t h w) uint8, a slot per pixel, and its source `output.segment_mask`."""
        if run.measuring:
            mask = fetch(self.mask, run.batch, run.output, "MaskToSegment.mask")
            run.output["segment_mask"] = mask
            run.output["segment"] = mask_to_segment(mask, self.size)
            if not self.warned and "segment" in run.batch:
                objects = run.batch["segment"].flatten(1).amax(dim=1)  # ids are 1..n
                self.crowded = self.crowded + (objects > mask.shape[-3]).sum()  # stays on the device
                self.most = objects.amax().clamp(min=self.most)
                self.samples += len(objects)
                self.slots = mask.shape[-3]

    def after_eval(self, run: Run) -> None:
        """Warn once if samples had more objects than there are slots."""
        if not self.warned and (crowded := int(self.crowded)):
            log.warning(
                "%d of %d scored samples have more objects (up to %d) than the model has slots (%d): some objects must "
                "share one (knob num_slots)", crowded, self.samples, self.most, self.slots
            )  # fmt: skip
            self.warned = True
        self.crowded = self.most = self.samples = 0


def mask_to_segment(mask: Tensor, size: list[int]) -> Tensor:
    """Return the index of the largest mask per pixel after resizing bilinearly to `size` [h, w].

    Args:
        mask: (b s h' w') float; of videos (b t s h' w'), resized one by one, because a batch of them needs gigabytes.
        size: of the index map.

    Returns:
        (b h w) or (b t h w) uint8, or int32 of more than 256 masks.
    """
    if mask.ndim == 5:
        return torch.stack([mask_to_segment(frames, size) for frames in mask])
    resized = F.interpolate(mask.float(), size=size, mode="bilinear", align_corners=False)
    index = resized.max(dim=1).indices  # the first on ties, like argmax, which takes six times as long on a CPU
    return index.to(torch.uint8 if mask.shape[1] <= 256 else torch.int32)


@register
class ReconstructionTarget:
    """Resize the input picture to the size of its reconstruction, once per step for all losses: `batch.target`.

    Of a reconstruction at several scales, `batch.target` is a list like it; each is made of the full picture.

    Args:
        image: path of the pictures (b c h w), or of videos (b t c h w).
        reconstruction: path of a tensor, or of a list of them.
    """

    def __init__(self, image: str = "batch.image", reconstruction: str = "output.reconstruction"):
        self.image, self.reconstruction = image, reconstruction

    def after_forward(self, run: Run) -> None:
        """Add `batch.target` (b c h w) or (b t c h w) float, or a list of them, bicubic with antialias."""
        image = fetch_tensor(self.image, run.batch, run.output, "ReconstructionTarget.image")
        made = fetch(self.reconstruction, run.batch, run.output, "ReconstructionTarget.reconstruction")
        if isinstance(made, (list, tuple)):
            run.batch["target"] = [shrink_pictures(image, one.shape[-2:]) for one in made]
        else:
            run.batch["target"] = shrink_pictures(image, made.shape[-2:])


@torch.no_grad()
def shrink_pictures(image: Tensor, size: list[int]) -> Tensor:
    """Return pictures (... c h w) float resized to `size` [h, w], bicubic with antialias."""
    resized = F.interpolate(image.flatten(0, -4), size=size, mode="bicubic", antialias=True)
    return resized.unflatten(0, image.shape[:-3])
