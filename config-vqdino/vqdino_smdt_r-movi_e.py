"""VVO-SmdT (Zhao et al., 2025) on MOVi-E: slots start from nothing."""

from ._parts import smdt

config = smdt("movi_e")
