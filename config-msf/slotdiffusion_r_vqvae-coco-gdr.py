"""SlotDiffusion with grouped codes (GDR) on COCO (Zhao et al.)."""

from ._parts import slotdiffusion

config = slotdiffusion("gdr")
