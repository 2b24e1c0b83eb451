"""SPOT (Kakogeorgiou et al., CVPR 2024) on COCO: slots predict DINOv2 features in nine orders."""

from ._parts import spot

config = spot("coco")
