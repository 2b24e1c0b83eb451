"""VideoSAUR (Zadaianchuk et al., NeurIPS 2023) on MOVi-E: slots start from nothing."""

from ._parts import videosaur

config = videosaur("movi_e")
