"""Datasets with their transforms: random crop and flip for training, centre crop for evaluation, both to one size."""

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
    """
    keys = ["image", "segment"] if segment else ["image"]
    resize = [dict(type="Resize", keys=["image"], size=[resolution, resolution], mode="bilinear")]
    if segment:
        resize.append(dict(type="Resize", keys=["segment"], size=[resolution, resolution], mode="nearest-exact"))
    centre = [dict(type="CenterCrop", keys=keys), *resize]
    random = [dict(type="RandomCrop", keys=keys), *resize, dict(type="RandomFlip", keys=keys, p=0.5)]

    def split(file: str, transforms: list[dict], keys: list[str]) -> dict:
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


def shapes(resolution: int, batch_size: int, segment: bool = True) -> dict:
    """The procedural demo scenes, not augmented, so that frozen features need computing only once."""
    return images("Shapes", "shapes", resolution, batch_size, segment, augment=False, num_workers=0)
