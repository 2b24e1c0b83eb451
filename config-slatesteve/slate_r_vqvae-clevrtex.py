"""SLATE (Singh et al., ICLR 2022) on ClevrTex: slots predict the codes of the image by a transformer."""

from ._parts import slate

config = slate("clevrtex")
