"""DINOSAUR (Seitzer et al., ICLR 2023) on COCO at 384 pixels."""

from ._parts import dinosaur

config = dinosaur("coco", resolution=384)
