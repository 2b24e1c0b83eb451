"""SlotDiffusion (Wu et al., NeurIPS 2023) on COCO at 384 pixels."""

from ._parts import slotdiffusion

config = slotdiffusion("coco", resolution=384)
