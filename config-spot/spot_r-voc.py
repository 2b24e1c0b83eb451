"""SPOT (Kakogeorgiou et al., CVPR 2024) on PASCAL VOC: slots predict DINOv2 features in nine orders."""

from ._parts import spot

config = spot("voc")
