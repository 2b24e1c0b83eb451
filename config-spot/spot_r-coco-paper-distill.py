"""SPOT (Kakogeorgiou et al., CVPR 2024) on COCO as in the paper, second stage."""

from ._parts import paper_distill

config = paper_distill("coco")
