"""Stage 1 of VVO on MOVi-D: DINOv2 features in 4096 codes of 256 channels."""

from ._parts import vqdino

config = vqdino("movi_d", width=256)
