"""SPOT (Kakogeorgiou et al., CVPR 2024) on COCO, second stage: slots taught by the first."""

from ._parts import distill

config = distill("coco")
