"""Stage 1 of VVO on COCO at 384 pixels, codes of 4 channels."""

from ._parts import vqdino

config = vqdino("coco", width=4, resolution=384)
