"""Stage 1 of SlotDiffusion with multi-scale fusion (MSF) on COCO, codes of 4 channels."""

from ._parts import vqvae

config = vqvae("msf", width=4)
