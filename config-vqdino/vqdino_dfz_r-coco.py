"""VVO-Dfz (Zhao et al., 2025) on COCO: slots guide the denoising of the codes of DINOv2 features."""

from ._parts import dfz

config = dfz("coco")
