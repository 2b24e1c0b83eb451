"""SLATE with multi-scale fusion (MSF) on COCO (Zhao et al.)."""

from ._parts import slate

config = slate("msf")
