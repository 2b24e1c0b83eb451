"""Stage 1 of SLATE with grouped codes (GDR) on COCO, codes of 256 channels."""

from ._parts import vqvae

config = vqvae("gdr", width=256)
