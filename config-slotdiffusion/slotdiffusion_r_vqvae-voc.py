"""SlotDiffusion (Wu et al., NeurIPS 2023) on PASCAL VOC: slots guide the denoising of the image's codes."""

from ._parts import slotdiffusion

config = slotdiffusion("voc")
