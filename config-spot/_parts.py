"""SPOT: both stages on DINOv2 features like the other methods here, and as in the paper.

The backbone like the other methods' has no register tokens, so that scores differ by the method alone; `registers`
takes the one that has.
"""

from object_centric_bench.recipe import backbone, learn, method, published

STEPS = {"coco": 100_000, "voc": 50_000, "clevrtex": 50_000}
SHARED = 8  # first blocks of the student's backbone, which are its teacher's
TRAINED = r"blocks\.(?:8|9|10|11)"  # the others
EPOCH = 1848  # steps of the paper on COCO: 118287 images, 64 at a time
MASKS = 320  # pixels, side of the paper's masks


def experiment(built, dataset, lr, total_steps, size, pretrain=None, paper=False):
    """Return the whole config; the largest gradient is clipped to 0.3.

    The paper trains in float32 and scores the last checkpoint. Its warm-up reaches the peak one step before ours does:
    there its rate is higher by a `warmup_steps`-th of the peak, and equal ever after.
    """
    warmup_steps, from_step = (total_steps // 10, total_steps) if paper else (None, total_steps // 2)
    return dict(
        **built,
        dataset=dataset,
        pretrain=pretrain,
        grad_norm_type="inf",
        **(dict(protocol=["vvo", "spot"], precision="no") if paper else {}),
        **learn.adam_with_warmup(lr, total_steps, 0.3, warmup_steps),
        **learn.segmentation(mask="output.mask", size=[size, size], from_step=from_step),
    )


def features(resolution, pretrained, registers):
    """Return DINOv2, with or without register tokens."""
    found = backbone.dinov2_small(resolution, pretrained)
    name = "vit_small_patch14_reg4_dinov2.lvd142m" if registers else found.build["name"]
    return found._replace(build=found.build | dict(name=name))


def spot(data):
    """Return `config` of the first stage; `official` takes the paper's layers, `registers` a backbone with four."""

    def config(
        resolution=256,
        num_slots=published.SLOTS[data],
        batch_size=32,
        total_steps=STEPS[data],
        lr=2e-4,
        official=False,
        registers=False,
        pretrained=True,
    ):
        found = features(resolution, pretrained, registers)
        built = method.spot(found, num_slots, published.SLOT_DIM, official)
        return experiment(built, published.data(data, resolution, batch_size), lr, total_steps, resolution)

    return config


def distill(data):
    """Return `config` of the second stage; `scratch` takes over the backbone only, `weight` is the distillation's."""

    def config(
        resolution=256,
        num_slots=published.SLOTS[data],
        batch_size=32,
        total_steps=STEPS[data],
        lr=2e-4,
        lr_scale=1.0,
        weight=0.005,
        scratch=False,
        official=False,
        registers=False,
        pretrained=True,
    ):
        found = features(resolution, pretrained, registers)
        taught = method.spot(found, num_slots, published.SLOT_DIM, official)
        built = method.distilled(taught, TRAINED, weight, lr_scale, SHARED)
        knobs = dict(
            resolution=resolution, num_slots=num_slots, official=official, registers=registers, pretrained=pretrained
        )
        pretrain = method.first_stage_of_spot(f"spot_r-{data}.py", scratch, **knobs)
        return experiment(built, published.data(data, resolution, batch_size), lr, total_steps, resolution, pretrain)

    return config


def paper_data(data, resolution, batch_size):
    """Return the dataset section of the paper: centre crops, flipped at random in training; larger masks."""
    section = published.data(data, resolution, batch_size)
    crop, resize, masks = section["eval"]["transforms"]
    centre = [crop, resize, masks | dict(size=[MASKS, MASKS])]
    section["eval"]["transforms"] = centre
    section["train"]["transforms"] = [*centre, dict(type="RandomFlip", keys=crop["keys"], p=0.5)]
    return section


def paper(data):
    """Return `config` of the first stage as in the paper.

    Not as in the paper are the labels that are scored: things of the panoptic annotations, not instances, which may
    overlap; so nothing is left out of the scores for lying on two of them.
    """

    def config(num_slots=published.SLOTS[data], batch_size=64, total_steps=50 * EPOCH, lr=4e-4, pretrained=True):
        built = method.spot(backbone.dino_base(224, pretrained), num_slots, published.SLOT_DIM, xavier=True)
        section = paper_data(data, 224, batch_size)
        return experiment(built, section, lr, total_steps, MASKS, paper=True)

    return config


def paper_distill(data):
    """Return `config` of the second stage as in the paper: but for the backbone, the student starts from scratch."""

    def config(num_slots=published.SLOTS[data], batch_size=64, total_steps=50 * EPOCH, lr=4e-4, pretrained=True):
        taught = method.spot(backbone.dino_base(224, pretrained), num_slots, published.SLOT_DIM, xavier=True)
        section = paper_data(data, 224, batch_size)
        knobs = dict(num_slots=num_slots, pretrained=pretrained)
        pretrain = method.first_stage_of_spot(f"spot_r-{data}-paper.py", scratch=True, **knobs)
        built = method.distilled(taught, TRAINED, shared_blocks=SHARED)
        return experiment(built, section, lr, total_steps, MASKS, pretrain, paper=True)

    return config
