"""SPOT (Kakogeorgiou et al., CVPR 2024) on COCO as in the paper: DINO ViT-B/16 at 224 pixels."""

from ._parts import paper

config = paper("coco")
