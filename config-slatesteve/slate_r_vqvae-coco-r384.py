"""SLATE (Singh et al., ICLR 2022) on COCO at 384 pixels."""

from ._parts import slate

config = slate("coco", resolution=384)
