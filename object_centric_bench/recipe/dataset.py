"""Datasets with their transforms: random crop and flip for training, centre crop for evaluation, both to one size."""

from functools import partial
from typing import Any

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]  # ImageNet, of values in 0..255


def images(
    type: str,
    folder: str,
    resolution: int,
    batch_size: int,
    segment: bool = True,
    augment: bool = True,
    num_workers: int = 4,
    options: dict | None = None,
    maps: tuple[str, ...] = (),
) -> dict:
    """The dataset section for still images in `<folder>/train.lmdb` and `<folder>/val.lmdb`.

    Args:
        type: the dataset's class.
        folder: below --data_dir.
        resolution: side of the square image that the model gets, in pixels.
        batch_size: images per step.
        segment: read label maps too (stage 1 needs none).
        augment: crop and flip at random in training; False treats both splits alike.
        num_workers: processes that read and decode.
        options: further arguments of the class.
        maps: further label maps to read, which are cropped, resized and flipped like `segment`.
    """
    labels = ["segment", *maps] if segment else []
    keys = ["image", *labels]
    resize = [dict(type="Resize", keys=["image"], size=[resolution, resolution], mode="bilinear")]
    if labels:
        resize.append(dict(type="Resize", keys=labels, size=[resolution, resolution], mode="nearest-exact"))
    centre = [dict(type="CenterCrop", keys=keys), *resize]
    random = [dict(type="RandomCrop", keys=keys), *resize, dict(type="RandomFlip", keys=keys, p=0.5)]

    def split(file: str, transforms: list, keys: list[str]) -> dict:
        return dict(type=type, file=f"{folder}/{file}", keys=keys, transforms=transforms, **(options or {}))

    return dict(
        train=split("train.lmdb", random if augment else centre, keys),
        eval=split("val.lmdb", centre, keys),
        batch_transforms=[dict(type="Normalize", keys=["image"], mean=MEAN, std=STD)],
        batch_size=batch_size,
        eval_batch_size=batch_size,
        num_workers=num_workers,
    )


def coco(resolution: int, batch_size: int, segment: bool = True) -> dict:
    """COCO panoptic 2017; things are objects, stuff and unlabelled pixels are background."""
    return images("COCO", "coco", resolution, batch_size, segment, options=dict(instance=True) if segment else None)


def clevrtex(resolution: int, batch_size: int, segment: bool = True) -> dict:
    """ClevrTex, validated on scenes with other shapes and materials."""
    return images("ClevrTex", "clevrtex", resolution, batch_size, segment)


def voc(resolution: int, batch_size: int, segment: bool = True, legacy: bool = False) -> dict:
    """PASCAL VOC with `ignore`, the border around objects, for a metric that leaves it out.

    For published files set `labels` of both splits; see the class.

    Args:
        resolution: side of the square image that the model gets, in pixels.
        batch_size: images per step.
        segment: read label maps too.
        legacy: do without `ignore`, so that borders count as background, as the reference scores them.
    """
    options = dict(labels=None) if segment else None
    return images("VOC", "voc", resolution, batch_size, segment, options=options, maps=() if legacy else ("ignore",))


def movi(
    folder: str,
    resolution: int,
    batch_size: int,
    eval_batch_size: int,
    segment: bool = True,
    num_boxes: int = 21,
    frames: int = 6,
) -> dict:
    """MOVi-A to -F: clips for training, whole videos for evaluation.

    Args:
        folder: below --data_dir.
        resolution: side of the square frames that the model gets, in pixels.
        batch_size: clips per step.
        eval_batch_size: videos at once in evaluation.
        segment: read label maps and boxes too, and start clips at multiples of their length; stage 1 needs no labels,
            and its clips start anywhere.
        num_boxes: rows of `box`, one per slot; videos with fewer objects get zeros, of more objects the last are cut.
            0 reads no boxes: slots start from nothing.
        frames: length of a clip.
    """
    keys = ["video", "segment"] if segment else ["video"]
    resize = [dict(type="Resize", keys=["video"], size=[resolution, resolution], mode="bilinear")]
    if segment:
        resize.append(dict(type="Resize", keys=["segment"], size=[resolution, resolution], mode="nearest-exact"))
    boxed = segment and num_boxes > 0
    boxes = [dict(type="PadTo", keys=["box"], axis=1, size=num_boxes, truncate=True)] if boxed else []
    random = [dict(type="RandomCrop", keys=keys), *resize, dict(type="RandomFlip", keys=keys, p=0.5), *boxes]
    centre = [dict(type="CenterCrop", keys=keys), *resize, *boxes]
    read = [*keys, "box"] if boxed else keys
    clip = dict(type="RandomClip", size=frames, aligned=segment)
    return dict(
        train=dict(type="MOVi", file=f"{folder}/train.lmdb", keys=read, transforms=random, clip=clip),
        eval=dict(type="MOVi", file=f"{folder}/val.lmdb", keys=read, transforms=centre),
        batch_transforms=[dict(type="Normalize", keys=["video"], mean=MEAN, std=STD)],
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        num_workers=4,
    )


movi_c, movi_d, movi_e = (partial(movi, name) for name in ("movi_c", "movi_d", "movi_e"))


def shapes(resolution: int, batch_size: int, segment: bool = True) -> dict:
    """The procedural demo scenes, not augmented, so that frozen features need computing only once."""
    return images("Shapes", "shapes", resolution, batch_size, segment, augment=False, num_workers=0)


def moving_shapes(resolution: int, batch_size: int, segment: bool = True) -> dict:
    """The procedural demo videos, whole and not augmented, so that frozen features need computing only once."""
    section = images("MovingShapes", "moving_shapes", resolution, batch_size, segment, augment=False, num_workers=0)
    return _of_videos(section)


def _of_videos(section: Any) -> Any:
    """Return a dataset section for pictures as one for videos, whose keys are named so."""
    if isinstance(section, dict):
        return {key: _of_videos(child) for key, child in section.items()}
    if isinstance(section, list):
        return [_of_videos(child) for child in section]
    return "video" if section == "image" else section
