"""Stage 1 of VVO on MOVi-E: DINOv2 features in 4096 codes of 256 channels."""

from ._parts import vqdino

config = vqdino("movi_e", width=256)
