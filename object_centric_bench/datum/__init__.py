"""Data: stores, datasets, transforms, loaders. Importing the package registers its classes."""

from . import (
    axis,
    clevrtex,
    clip,
    coco,
    conversion,
    dataset,
    feature,
    flow,
    geometry,
    inspection,
    lmdb,
    loader,
    movi,
    movi_source,
    moving_shapes,
    palette,
    parallel,
    published_video,
    record,
    shapes,
    source,
    stored_picture,
    tfrecord,
    transform,
    unpickle,
    voc,
)

__all__ = [
    "axis", "clevrtex", "clip", "coco", "conversion", "dataset", "feature", "flow", "geometry", "inspection", "lmdb",
    "loader", "movi", "movi_source", "moving_shapes", "palette", "parallel", "published_video", "record", "shapes",
    "source", "stored_picture", "tfrecord", "transform", "unpickle", "voc",
]  # fmt: skip
