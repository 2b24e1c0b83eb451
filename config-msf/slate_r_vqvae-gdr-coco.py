"""slate_r_vqvae-coco-gdr, under its other name."""

from ._parts import slate

config = slate("gdr")
