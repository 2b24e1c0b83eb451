"""SlotDiffusion with multi-scale fusion (MSF) on COCO (Zhao et al.)."""

from ._parts import slotdiffusion

config = slotdiffusion("msf")
