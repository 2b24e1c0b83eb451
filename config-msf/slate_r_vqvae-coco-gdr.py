"""SLATE with grouped codes (GDR) on COCO (Zhao et al.)."""

from ._parts import slate

config = slate("gdr")
