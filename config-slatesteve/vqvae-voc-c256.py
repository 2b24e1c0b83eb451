"""Stage 1 of SLATE on PASCAL VOC: a VQ-VAE with 4096 codes of 256 channels."""

from ._parts import vqvae

config = vqvae("voc")
