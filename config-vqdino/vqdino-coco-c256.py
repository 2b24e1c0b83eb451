"""Stage 1 of VVO on COCO: DINOv2 features in 4096 codes of 256 channels."""

from ._parts import vqdino

config = vqdino("coco", width=256)
