"""slotdiffusion_r_vqvae-coco-gdr, under its other name."""

from ._parts import slotdiffusion

config = slotdiffusion("gdr")
