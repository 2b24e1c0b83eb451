"""Stage 1 of STEVE on MOVi-D: a VQ-VAE with 4096 codes of 256 channels."""

from ._parts import vqvae

config = vqvae("movi_d")
