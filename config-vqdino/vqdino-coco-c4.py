"""Stage 1 of VVO on COCO: DINOv2 features in 4096 codes of 4 channels."""

from ._parts import vqdino

config = vqdino("coco", width=4)
