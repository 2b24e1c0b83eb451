"""Data: stores, datasets, transforms, loaders. Importing the package registers its classes."""

from . import (
    axis,
    cache,
    clevrtex,
    clip,
    coco,
    conversion,
    dataset,
    flow,
    geometry,
    identity,
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
    "axis", "cache", "clevrtex", "clip", "coco", "conversion", "dataset", "flow", "geometry", "identity", "inspection",
    "lmdb", "loader", "movi", "movi_source", "moving_shapes", "palette", "parallel", "published_video", "record",
    "shapes", "source", "stored_picture", "tfrecord", "transform", "unpickle", "voc",
]  # fmt: skip
