"""VVO (Zhao et al., 2025): stage 1 quantizes a backbone's features, stage 2 finds objects in them."""

from . import learn, model
from .backbone import Backbone

STAGE1 = ["tokenizer.encoder", "tokenizer.quantizer"]  # what stage 2 takes over
LOGIT_SCALE = 2.35  # inverse temperature of sampling codes: reached at the end of stage 1, kept in stage 2


def stage1(
    backbone: Backbone,
    dataset: dict,
    code_dim: int,
    num_codes: int,
    decoder: dict,
    total_steps: int,
    lr: float,
    anneal: bool,
) -> dict:
    """Learn to quantize features such that the image can be decoded from the codes.

    Args:
        backbone: gives the features.
        dataset: the dataset section.
        code_dim: channels of a code.
        num_codes: size of the codebook.
        decoder: codes to image.
        total_steps: optimizer steps.
        lr: peak learning rate.
        anneal: fade from unquantized to quantized latents in the first half; otherwise the decoder never sees codes.
    """
    settings = learn.adam_with_warmup(lr=lr, total_steps=total_steps)
    mix = dict(type="Constant", value=1.0)
    if anneal:
        mix = dict(type="CosineLinear", total_steps=total_steps, cosine_steps=total_steps // 2, start=1.0, middle=0.0)
    scale = dict(type="LogCosine", total_steps=total_steps, start=1.0, final=LOGIT_SCALE)
    settings["schedule"]["model"] = dict(tokenizer=dict(latent_mix=mix, quantizer=dict(logit_scale=scale)))
    tokenizer = model.feature_tokenizer(backbone.dim, code_dim, num_codes, 0.0, decoder)
    return dict(
        dataset=dataset,
        model=dict(type="VQDINO", backbone=backbone.build, tokenizer=tokenizer),
        freeze=[r"backbone\..*"],
        loss=dict(
            recon=dict(type="MSE", prediction="output.reconstruction", target="batch.target"),
            align=dict(type="MSE", prediction="output.quantized", target="output.latent"),
            commit=dict(type="MSE", prediction="output.latent", target="output.mixed", weight=0.25),
            norm=dict(type="UnitNorm", prediction="output.latent", weight=0.1),
        ),
        **learn.reconstruction(),
        **settings,
    )


def tfd(
    backbone: Backbone, num_slots: int, slot_dim: int, num_codes: int, num_layers: int = 4, linear: bool = True
) -> dict:
    """VVO-Tfd: an autoregressive transformer predicts the codes; model, loss and where the masks are."""
    return dict(
        model=dict(
            type="VVOTfd",
            backbone=backbone.build,
            projection=model.projection(backbone.dim, slot_dim, linear=linear),
            **model.gaussian_slots(num_slots, slot_dim),
            tokenizer=model.feature_tokenizer(backbone.dim, slot_dim, num_codes, LOGIT_SCALE, decoder=None),
            decoder=model.autoregressive(backbone.grid, slot_dim, num_codes, num_layers),
        ),
        loss=dict(recon=dict(type="CrossEntropy", prediction="output.logits", target="output.code")),
        freeze=[r"backbone\..*", r"tokenizer\..*"],
    )


def mlp(
    backbone: Backbone, num_slots: int, slot_dim: int, num_codes: int, hidden_dim: int = 2048, num_hidden: int = 3
) -> dict:
    """VVO-Mlp: a mixture decoder reconstructs code vectors and features; model, loss and where the masks are."""
    width = slot_dim + backbone.dim
    return dict(
        model=dict(
            type="VVOMlp",
            backbone=backbone.build,
            projection=model.projection(backbone.dim, slot_dim),
            **model.gaussian_slots(num_slots, slot_dim),
            tokenizer=model.feature_tokenizer(backbone.dim, slot_dim, num_codes, LOGIT_SCALE, decoder=None),
            decoder=model.broadcast(backbone.grid, slot_dim, width, hidden_dim, num_hidden),
        ),
        loss=dict(
            quantized=dict(type="MSE", prediction="output.quantized_reconstruction", target="output.quantized"),
            feature=dict(type="MSE", prediction="output.feature_reconstruction", target="output.feature"),
        ),
        freeze=[r"backbone\..*", r"tokenizer\..*"],
    )


def pretrained_by(config: str, **knobs: object) -> dict:
    """Return the `pretrain` section: stage 1's config file in the same folder, with the knobs it is loaded with."""
    return dict(config=config, knobs=knobs, modules=STAGE1)
