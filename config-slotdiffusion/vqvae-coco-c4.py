"""Stage 1 of SlotDiffusion on COCO: a VQ-VAE with 4096 codes of 4 channels."""

from ._parts import vqvae

config = vqvae("coco")
