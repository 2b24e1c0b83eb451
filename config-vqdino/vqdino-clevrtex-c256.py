"""Stage 1 of VVO on ClevrTex: DINOv2 features in 4096 codes of 256 channels."""

from ._parts import vqdino

config = vqdino("clevrtex", width=256)
