"""Stage 1 of VVO on COCO at 384 pixels, codes of 256 channels."""

from ._parts import vqdino

config = vqdino("coco", width=256, resolution=384)
