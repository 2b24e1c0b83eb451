"""Stage 1 of VVO on ClevrTex: DINOv2 features in 4096 codes of 4 channels."""

from ._parts import vqdino

config = vqdino("clevrtex", width=4)
