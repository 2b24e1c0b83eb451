"""Stage 1 of SlotDiffusion with grouped codes (GDR) on COCO, codes of 4 channels."""

from ._parts import vqvae

config = vqvae("gdr", width=4)
