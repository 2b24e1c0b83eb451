"""What the published experiments share; a config adds its method.

All take the same steps, rates and batches, which are knobs of every config; DINOv2 ViT-S/14; and slots of width 256.
"""

from collections.abc import Callable
from typing import Any

from . import dataset, learn, stage1, tokenizer
from .backbone import Backbone, dinov2_small
from .method import tokenizer_parts

SLOTS = {"clevrtex": 11, "coco": 7, "voc": 6, "movi_c": 11, "movi_d": 21, "movi_e": 24}
UNBOXED = {"movi_c": 11, "movi_d": 15, "movi_e": 15}  # slots of videos that start from nothing
ANNEALED = ("coco", "voc")  # where stage 1 of VVO fades from latents to codes; elsewhere its decoder never sees codes
SLOT_DIM = 256


def data(name: str, resolution: int, batch_size: int, segment: bool = True, **options: object) -> dict:
    """Return the dataset section; of videos with the published batches of whole videos for evaluation.

    VOC is read as by the reference: borders count as background.
    """
    if is_video(name):
        options["eval_batch_size"] = 8 if segment else 4
    if name == "voc":
        options["legacy"] = True
    return getattr(dataset, name)(resolution, batch_size, segment=segment, **options)


def is_video(name: str) -> bool:
    """Tell whether a dataset holds videos."""
    return name.startswith("movi")


def first_stage(name: str, resolution: int, batch_size: int, total_steps: int, lr: float, **options: Any) -> dict:
    """Return the config of a first stage; the options are those of `stage1.stage1`."""
    section = data(name, resolution, batch_size, segment=False)
    return stage1.stage1(dataset=section, total_steps=total_steps, lr=lr, **options)


def image_tokenizer(name: str, kind: str, width: int, resolution: int = 256) -> Callable[..., dict]:
    """Return the function `config` of a first stage that tokenizes images.

    Args:
        name: the dataset.
        kind: vq, gdr or msf.
        width: channels of a code; with 4 the loss has a perceptual term.
        resolution: default of the knob, pixels.
    """

    video = is_video(name)

    def config(resolution=resolution, batch_size=16 if video else 64, total_steps=30_000, lr=2e-3, pretrained=True):
        multiple = 64 if kind == "msf" else 16
        if resolution % multiple:
            raise ValueError(f"resolution must be a multiple of {multiple} pixels for this tokenizer, not {resolution}")
        decoder = tokenizer.image_decoder(width, pretrained)
        perceptual = dict(pretrained=pretrained) if width == 4 else None
        options: dict[str, Any] = dict(norm=kind != "vq", perceptual=perceptual)
        if kind == "vq":
            built = tokenizer.vq(width, pretrained, decoder)
        else:
            built = getattr(tokenizer, kind)(width, 0.0, pretrained, decoder)
            place = ("quantizer",) if kind == "gdr" else ()
            options["schedule"] = stage1.projected(total_steps, logit_scale=2.0, anneal=True, scale_at=place)
        if kind == "msf":
            options["scales"] = stage1.SCALES
        model = dict(type="VQVAE", tokenizer=built)
        return first_stage(
            name, resolution, batch_size, total_steps, lr, model=model, freeze=[tokenizer.FROZEN], **options
        )

    return config


def feature_tokenizer(name: str, width: int, resolution: int = 256) -> Callable[..., dict]:
    """Return the function `config` of a first stage that tokenizes DINOv2's features (VVO).

    Args:
        name: the dataset.
        width: channels of a code; with 4 the loss has a perceptual term.
        resolution: default of the knob, pixels.
    """
    video = is_video(name)

    def config(resolution=resolution, batch_size=16 if video else 64, total_steps=30_000, lr=2e-3, pretrained=True):
        backbone = dinov2_small(resolution, pretrained)
        decoder = tokenizer.feature_decoder(width, pretrained)
        codes = tokenizer.simvq(backbone.dim, width, tokenizer.NUM_CODES, 0.0, decoder)
        return first_stage(
            name,
            resolution,
            batch_size,
            total_steps,
            lr,
            model=dict(type="VQDINO", backbone=backbone.build, tokenizer=codes),
            freeze=[r"backbone\..*"],
            joint_norm=video,  # as in the reference
            perceptual=dict(pretrained=pretrained) if width == 4 else None,
            schedule=stage1.projected(total_steps, tokenizer.LOGIT_SCALE, anneal=name in ANNEALED),
        )

    return config


def experiment(
    name: str,
    method: Callable[[Backbone, int, bool], dict],
    mask: str = "output.attention",
    pretrain: str | None = None,
    resolution: int = 256,
    boxes: bool = True,
) -> Callable[..., dict]:
    """Return the function `config` of a method that finds slots.

    Args:
        name: the dataset.
        method: from backbone, number of slots and whether weights are pretrained to model, loss and what is frozen.
        mask: path of the masks that segments are made of.
        pretrain: stem of the first stage's config file, without `-r384`; None if the method has none.
        resolution: default of the knob, pixels.
        boxes: slots of videos start from boxes.
    """
    video = is_video(name)

    def config(
        resolution=resolution,
        num_slots=(SLOTS if boxes else UNBOXED)[name],
        batch_size=8 if video else 32,
        total_steps=50_000,
        lr=5e-5 if video else 2e-4,
        pretrained=True,
    ):
        built = method(dinov2_small(resolution, pretrained), num_slots, pretrained)
        section = data(name, resolution, batch_size, **(dict(num_boxes=num_slots * boxes) if video else {}))
        cfg = dict(
            **built,
            dataset=section,
            **learn.adam_with_warmup(lr=lr, total_steps=total_steps, max_grad_norm=0.05 if video else 1.0),
            **learn.segmentation(mask=mask, size=[resolution, resolution], from_step=total_steps // 2),
        )
        if pretrain is not None:
            published_at_384 = name == "coco" and not pretrain.endswith(("-gdr", "-msf"))
            cfg["pretrain"] = dict(
                config=f"{pretrain}-r384.py" if resolution == 384 and published_at_384 else f"{pretrain}.py",
                knobs=dict(resolution=resolution, pretrained=pretrained),
                modules=tokenizer_parts(built["model"]["tokenizer"]),
            )
        return cfg

    return config
