"""DINOSAUR (Seitzer et al., ICLR 2023) on COCO: slots reconstruct DINOv2 features."""

from ._parts import dinosaur

config = dinosaur("coco")
