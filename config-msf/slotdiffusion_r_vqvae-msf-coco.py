"""slotdiffusion_r_vqvae-coco-msf, under its other name."""

from ._parts import slotdiffusion

config = slotdiffusion("msf")
