"""What the demo configs share: EfficientNet-Lite0 at 128x128, slots of width 64, runs of minutes on a CPU."""

from object_centric_bench.recipe import backbone, dataset, learn, vvo

RESOLUTION = 128  # pixels
NUM_CODES = 256
SLOT_DIM = 64


def efficientnet(grid):
    """Return the backbone: its levels of stride 4, 8 and 16 side by side on one grid."""
    return backbone.efficientnet_lite0(RESOLUTION, levels=[1, 2, 3], grid=[grid, grid])


def stage2(method, mask, total_steps, lr, batch_size, pretrain=None):
    """Return the whole config around a method's model and loss."""
    cfg = dict(
        **method,
        dataset=dataset.shapes(RESOLUTION, batch_size),
        pretrain=pretrain,
        cache_feature=True,
        **learn.adam_with_warmup(lr=lr, total_steps=total_steps),
        **learn.segmentation(mask=mask, size=[RESOLUTION, RESOLUTION]),
    )
    cfg["eval_every"] = total_steps // 4
    return cfg


def vvo_stage2(method, mask, grid, total_steps, lr, batch_size):
    """Return the config of a second stage on the quantized features of `vqshapes.py`."""
    return stage2(method, mask, total_steps, lr, batch_size, vvo.pretrained_by("vqshapes.py", grid=grid))
