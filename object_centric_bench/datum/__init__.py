"""Data: stores, datasets, transforms, loaders. Importing the package registers its classes."""

from . import coco, conversion, dataset, feature, lmdb, loader, parallel, record, shapes, source, transform, unpickle

__all__ = [
    "coco", "conversion", "dataset", "feature", "lmdb", "loader", "parallel", "record", "shapes", "source",
    "transform", "unpickle",
]  # fmt: skip
