"""DINOSAUR (Seitzer et al., ICLR 2023) on PASCAL VOC: slots reconstruct DINOv2 features."""

from ._parts import dinosaur

config = dinosaur("voc")
