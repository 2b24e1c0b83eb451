"""Stage 1 of SLATE with multi-scale fusion (MSF) on COCO, codes of 256 channels."""

from ._parts import vqvae

config = vqvae("msf", width=256)
