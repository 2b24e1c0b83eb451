"""SlotDiffusion (Wu et al., NeurIPS 2023) on COCO: slots guide the denoising of the image's codes."""

from ._parts import slotdiffusion

config = slotdiffusion("coco")
