"""VVO-Mlp (Zhao et al., 2025) on COCO at 384 pixels."""

from ._parts import mlp

config = mlp("coco", resolution=384)
