"""STEVE (Singh et al., NeurIPS 2022) on MOVi-D: slots start from the boxes of the first frame."""

from ._parts import steve

config = steve("movi_d")
