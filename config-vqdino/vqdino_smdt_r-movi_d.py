"""VVO-SmdT (Zhao et al., 2025) on MOVi-D: slots start from nothing."""

from ._parts import smdt

config = smdt("movi_d")
