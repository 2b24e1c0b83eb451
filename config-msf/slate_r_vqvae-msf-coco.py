"""slate_r_vqvae-coco-msf, under its other name."""

from ._parts import slate

config = slate("msf")
