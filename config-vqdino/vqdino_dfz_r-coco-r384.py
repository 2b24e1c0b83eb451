"""VVO-Dfz (Zhao et al., 2025) on COCO at 384 pixels."""

from ._parts import dfz

config = dfz("coco", resolution=384)
