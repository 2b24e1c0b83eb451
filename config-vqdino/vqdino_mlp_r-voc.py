"""VVO-Mlp (Zhao et al., 2025) on PASCAL VOC: slots reconstruct DINOv2 features and their codes by a mixture of MLPs."""

from ._parts import mlp

config = mlp("voc")
