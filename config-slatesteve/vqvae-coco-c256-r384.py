"""Stage 1 of SLATE on COCO at 384 pixels."""

from ._parts import vqvae

config = vqvae("coco", resolution=384)
