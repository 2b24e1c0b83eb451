"""VVO-Tfd9 on COCO: slots predict the codes of DINOv2 features by a transformer in nine orders."""

from ._parts import tfd9

config = tfd9("coco")
