"""What the configs of VVO's second stage on COCO share."""

from object_centric_bench.recipe import dataset, learn, vvo


def coco_stage2(method, mask, resolution, batch_size, total_steps, lr):
    """Return the whole config around a method's model and loss."""
    return dict(
        **method,
        dataset=dataset.coco(resolution, batch_size),
        pretrain=vvo.pretrained_by("vqdino-coco-c256.py", resolution=resolution),
        **learn.adam_with_warmup(lr=lr, total_steps=total_steps),
        **learn.segmentation(mask=mask, size=[resolution, resolution]),
    )
