"""What the demo configs share: EfficientNet-Lite0 at 128x128, slots of width 64, runs of minutes on a CPU."""

from object_centric_bench.recipe import backbone, dataset, learn, model, tokenizer
from object_centric_bench.recipe.method import tokenizer_parts

RESOLUTION = 128  # pixels
NUM_CODES = 256
SLOT_DIM = 64
LOGIT_SCALE = tokenizer.LOGIT_SCALE


def efficientnet(grid):
    """Return the backbone: its levels of stride 2 and 8 side by side on one grid."""
    return backbone.efficientnet_lite0(RESOLUTION, levels=[0, 2], grid=[grid, grid])


def codes_of(backbone, logit_scale=LOGIT_SCALE, decoder=None):
    """Return the tokenizer of the backbone's features."""
    return tokenizer.simvq(backbone.dim, SLOT_DIM, NUM_CODES, logit_scale, decoder)


def with_positions(method, grid):
    """Return a method that trains in minutes: positions start as waves, and tokens carry them too.

    The features of early convolutions, unlike a transformer's, do not tell where they are.
    """
    position = model.fourier([grid, grid], SLOT_DIM)
    parts = method["model"]
    parts["projection"] = dict(type="Positioned", projection=parts["projection"], position=position)
    parts["decoder"] |= dict(position=position)
    parts["initializer"] |= dict(std=0.3)
    return method


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
    modules = tokenizer_parts(method["model"]["tokenizer"])
    pretrain = dict(config="vqshapes.py", knobs=dict(grid=grid), modules=modules)
    return stage2(method, mask, total_steps, lr, batch_size, pretrain)
