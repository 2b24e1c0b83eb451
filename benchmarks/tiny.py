"""A config of seconds: DINOSAUR on drawn scenes of 64 pixels, a frozen vision transformer with random weights."""

from object_centric_bench.recipe import dataset, learn, method
from object_centric_bench.recipe.backbone import Backbone


def config(
    slots="PerSlotGaussian",
    batch_size=6,
    total_steps=24,
    eval_every=7,
    save_every=2,
    log_every=3,
    workers=0,
    tensorboard=False,
    dropout=0.01,
):
    """Return the config; saves and logs are much more frequent than a real run's."""
    build = dict(
        type="Backbone",
        provider="timm",
        name="vit_tiny_patch16_224",
        resolution=[64, 64],
        level=-1,
        pretrained=False,
    )
    initial = dict(type=slots, num_slots=4, dim=32)
    attention = dict(type="SlotAttention", dim=32, hidden_dim=64, dropout=dropout)
    built = method.features(Backbone(build, 192, [4, 4]), dict(initializer=initial, slot_attention=attention), 64, 1)
    data = dataset.images("Shapes", "shapes", 64, batch_size, num_workers=workers)
    data["eval_batch_size"] = 3
    cfg = dict(
        **built,
        dataset=data,
        **learn.adam_with_warmup(lr=1e-3, total_steps=total_steps),
        **learn.segmentation(mask="output.mask", size=[64, 64]),
        precision="no",
        metric_every=2,
    )
    cfg["eval_every"] = eval_every
    _, log, save = cfg["callback"]
    log["every"], log["tensorboard"], save["every_steps"] = log_every, tensorboard, save_every
    return cfg
