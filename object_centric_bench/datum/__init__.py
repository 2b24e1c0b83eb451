"""Data: stores, datasets, transforms, loaders. Importing the package registers its classes."""

from . import coco, dataset, feature, lmdb, loader, parallel, shapes, transform

__all__ = ["coco", "dataset", "feature", "lmdb", "loader", "parallel", "shapes", "transform"]
