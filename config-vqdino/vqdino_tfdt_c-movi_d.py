"""VVO-TfdT (Zhao et al., 2025) on MOVi-D: slots start from the boxes of the first frame."""

from ._parts import tfdt

config = tfdt("movi_d")
