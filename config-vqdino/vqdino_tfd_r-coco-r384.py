"""VVO-Tfd (Zhao et al., 2025) on COCO at 384 pixels."""

from ._parts import tfd

config = tfd("coco", resolution=384)
