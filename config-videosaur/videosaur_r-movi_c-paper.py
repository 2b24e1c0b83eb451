"""VideoSAUR (Zadaianchuk et al., NeurIPS 2023) on MOVi-C as in the paper: DINO ViT-B/8, nothing but similarity."""

from ._parts import paper

config = paper("movi_c")
