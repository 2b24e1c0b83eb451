"""What the demo configs share: EfficientNet-Lite0 at 128x128, slots of width 64, runs of minutes on a CPU."""

from object_centric_bench.recipe import backbone, dataset, learn, method, model, stage1, tokenizer
from object_centric_bench.recipe.method import tokenizer_parts

RESOLUTION = 128  # pixels
NUM_CODES = 256
SLOT_DIM = 64
LOGIT_SCALE = tokenizer.LOGIT_SCALE


def efficientnet(grid):
    """Return the backbone: its levels of stride 2 and 8 side by side on one grid."""
    return backbone.efficientnet_lite0(RESOLUTION, levels=[0, 2], grid=[grid, grid])


def codes_of(backbone, logit_scale=LOGIT_SCALE, decoder=None, width=SLOT_DIM, num_codes=NUM_CODES):
    """Return the tokenizer of the backbone's features, with codes of `width` channels."""
    return tokenizer.simvq(backbone.dim, width, num_codes, logit_scale, decoder)


def stage1_of(data, grid, batch_size, total_steps, lr, **codes):
    """Return the whole config of a first stage on a dataset's images or videos; `codes` are their width and number."""
    backbone = efficientnet(grid)
    width = codes.get("width", SLOT_DIM)
    decoder = tokenizer.feature_decoder(width, pretrained=False, hidden_dim=64, channels=16)
    cfg = stage1.stage1(
        model=dict(type="VQDINO", backbone=backbone.build, tokenizer=codes_of(backbone, 0.0, decoder, **codes)),
        dataset=data(RESOLUTION, batch_size, segment=False),
        total_steps=total_steps,
        lr=lr,
        freeze=[r"backbone\..*"],
        schedule=stage1.projected(total_steps, LOGIT_SCALE, anneal=True),
    )
    return cfg | dict(cache_feature=True, eval_every=total_steps // 2)


def mixed(grid, num_slots, tokenizer=None):
    """Return VideoSAUR, or with a tokenizer VVO-SmdT, similarity measured on features: convolutions have no keys."""
    slots = model.free_slots(num_slots, SLOT_DIM)
    slots["initializer"] = dict(type="PerSlotGaussian", num_slots=num_slots, dim=SLOT_DIM)
    sizes = dict(hidden_dim=256, num_hidden=2, temperature=0.075, keys=False)
    return with_positions(method.similarity(efficientnet(grid), slots, tokenizer, **sizes), grid)


def with_positions(built, grid):
    """Return a method that trains in minutes: positions start as waves, and tokens carry them too.

    The features of early convolutions, unlike a transformer's, do not tell where they are.
    """
    position = model.fourier([grid, grid], SLOT_DIM)
    parts = built["model"]
    parts["projection"] = dict(type="Positioned", projection=parts["projection"], position=position)
    parts["decoder"] |= dict(position=position)
    parts["initializer"] |= dict(std=0.3)
    return built


def stage2(method, mask, total_steps, lr, batch_size, pretrain=None, data=dataset.shapes):
    """Return the whole config around a method's model and loss."""
    cfg = dict(
        **method,
        dataset=data(RESOLUTION, batch_size),
        pretrain=pretrain,
        cache_feature=True,
        **learn.adam_with_warmup(lr=lr, total_steps=total_steps),
        **learn.segmentation(mask=mask, size=[RESOLUTION, RESOLUTION]),
    )
    cfg["eval_every"] = max(total_steps // 4, 1)
    return cfg


def spot_on_shapes(grid, num_slots):
    """Return SPOT's first stage, with positions for the decoder too."""
    found = efficientnet(grid)
    built = method.spot(found, num_slots, SLOT_DIM, num_layers=2, num_heads=4)
    parts = built["model"]
    position = model.fourier(found.grid, found.dim)
    parts["initializer"] = dict(type="PerSlotGaussian", num_slots=num_slots, dim=SLOT_DIM, std=0.3)
    parts["projection"] = dict(type="Positioned", projection=parts["projection"], position=position)
    parts["decoder"] |= dict(position=position)
    return built


def vvo_stage2(method, mask, grid, total_steps, lr, batch_size, first="vqshapes.py", data=dataset.shapes):
    """Return the config of a second stage on the quantized features of another config, `first`."""
    modules = tokenizer_parts(method["model"]["tokenizer"])
    pretrain = dict(config=first, knobs=dict(grid=grid), modules=modules)
    return stage2(method, mask, total_steps, lr, batch_size, pretrain, data)
