"""VVO-Tfd (Zhao et al., 2025) on ClevrTex: slots predict the codes of DINOv2 features by a transformer."""

from ._parts import tfd

config = tfd("clevrtex")
