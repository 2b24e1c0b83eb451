"""Models of any size: small ones for tests, those of the reference numbers, and those of published checkpoints."""

from typing import NamedTuple

from object_centric_bench.model.autoencoder import (
    FeatureEncoder,
    ImageDecoder,
    ImageEncoder,
    PlainImageDecoder,
    Tokenizer,
)
from object_centric_bench.model.autoregressive import AutoregressiveTransformer
from object_centric_bench.model.backbone import Backbone
from object_centric_bench.model.broadcast import BroadcastMLP
from object_centric_bench.model.diffusion import DiffusionDecoder
from object_centric_bench.model.dinosaur import DINOSAUR
from object_centric_bench.model.initializer import BoxMLP, PerSlotGaussian
from object_centric_bench.model.mlp import MLP
from object_centric_bench.model.msf import MultiScaleTokenizer
from object_centric_bench.model.quantizer import GroupedCodebook, LearnedCodebook, ProjectedCodebook
from object_centric_bench.model.slate import SLATE
from object_centric_bench.model.slot_attention import SlotAttention
from object_centric_bench.model.slotdiffusion import SlotDiffusion
from object_centric_bench.model.steve import STEVE
from object_centric_bench.model.temporal import SlotPredictor
from object_centric_bench.model.vqvae import VQVAE
from object_centric_bench.model.vvo import VQDINO, VVODfz, VVOMlp, VVOTfd
from object_centric_bench.model.vvo_video import VVODfzT, VVOMlpT, VVOTfdT

DINOV2 = "vit_small_patch14_dinov2"
TAESD = {"pretrained": False, "published_range": True}  # as in the reference


class Kind(NamedTuple):
    """A method: its class, what its tokenizer takes, its decoder, whether its input is a video."""

    cls: type
    encoder: str | None
    decoder: str | None
    video: bool = False


METHODS = {
    "VQDINO": Kind(VQDINO, "feature", None),
    "VQVAE": Kind(VQVAE, "image", None),
    "DINOSAUR": Kind(DINOSAUR, None, "mixture"),
    "SLATE": Kind(SLATE, "image", "autoregressive"),
    "SlotDiffusion": Kind(SlotDiffusion, "image", "diffusion"),
    "STEVE": Kind(STEVE, "image", "autoregressive", video=True),
    "VVOTfd": Kind(VVOTfd, "feature", "autoregressive"),
    "VVOMlp": Kind(VVOMlp, "feature", "mixture"),
    "VVODfz": Kind(VVODfz, "feature", "diffusion"),
    "VVOTfdT": Kind(VVOTfdT, "feature", "autoregressive", video=True),
    "VVOMlpT": Kind(VVOMlpT, "feature", "mixture", video=True),
    "VVODfzT": Kind(VVODfzT, "feature", "diffusion", video=True),
}


def tiny_backbone(width=48, resolution=(56, 56), depth=2, num_heads=3, **options):
    """A DINOv2 of any size, with random weights."""
    options = {"embed_dim": width, "depth": depth, "num_heads": num_heads, **options}
    return Backbone("timm", DINOV2, list(resolution), pretrained=False, options=options)


def build_tokenizer(codes, encoder, decoder, num_codes, code_dim, basis_dim, logit_scale):
    """Compose a tokenizer; grouped and multi-scale ones take a list of numbers of codes, the shared one first."""
    if codes == "multi-scale":
        shared, *own = (ProjectedCodebook(size, code_dim, basis_dim, logit_scale) for size in num_codes)
        return MultiScaleTokenizer(encoder, shared, own, decoder)
    if codes == "grouped":
        quantizer = GroupedCodebook(num_codes, code_dim, basis_dim, logit_scale)
    elif codes == "projected":
        quantizer = ProjectedCodebook(num_codes, code_dim, basis_dim, logit_scale)
    else:
        quantizer = LearnedCodebook(num_codes, code_dim)
    return Tokenizer(encoder, quantizer, decoder)


def build_decoder(kind, grid, slot_dim, output_dim, sizes):
    """Compose a decoder of slots; `output_dim` is its number of codes, or the channels of what it reconstructs."""
    if kind == "autoregressive":
        return AutoregressiveTransformer(
            grid,
            slot_dim,
            output_dim,
            sizes.get("num_layers", 2),
            sizes.get("num_heads", 4),
            sizes.get("transformer_hidden_dim"),
        )
    if kind == "mixture":
        return BroadcastMLP(grid, [slot_dim, *sizes.get("decoder_dims", (64, 64, 64)), output_dim])
    return DiffusionDecoder(grid, output_dim, slot_dim, **{"widths": (32, 32), "layers_per_block": 1, **sizes["unet"]})


def build_method(
    method,
    backbone=None,
    codes=None,
    num_slots=4,
    slot_dim=32,
    num_codes=64,
    code_dim=None,
    basis_dim=1024,
    encoder_dim=None,
    logit_scale=0.0,
    hidden_dim=None,
    projection_dims=None,
    linear=None,
    taesd_width=16,
    upscale_dim=32,
    num_iterations=None,
    bilevel=True,
    dropout=0.01,
    predictor=None,
    unet=None,
    boxes=True,
    **sizes,
):
    """Compose a method from plain sizes.

    `codes` is the kind of tokenizer, `projected` or for images `learned` by default; `linear` that of the projection;
    `predictor` and `unet` are arguments of these; `sizes` are those of the decoder, and `continuous_target`.
    """
    kind = METHODS[method]
    codes = codes or ("learned" if kind.encoder == "image" else "projected")
    code_dim = code_dim or (4 if kind.decoder == "diffusion" else 32)
    stage_one = kind.encoder is not None and kind.decoder is None
    encoder = decoder = tokenizer = None
    if kind.encoder == "image":
        encoder = ImageEncoder(code_dim, taesd_width, **TAESD)
        decoder = PlainImageDecoder(code_dim, taesd_width, **TAESD) if stage_one else None
    elif kind.encoder == "feature":
        encoder = FeatureEncoder(backbone.dim, code_dim, encoder_dim)
        decoder = ImageDecoder(code_dim, upscale_dim, taesd_width, **TAESD) if stage_one else None
    if encoder is not None:
        tokenizer = build_tokenizer(codes, encoder, decoder, num_codes, code_dim, basis_dim, logit_scale)
    if stage_one:
        return VQVAE(tokenizer) if kind.encoder == "image" else VQDINO(backbone, tokenizer)
    projection_dims = projection_dims or [backbone.dim, 2 * backbone.dim, slot_dim]
    if linear is None:
        linear = kind.encoder == "feature" and kind.decoder != "mixture"
    arguments = {"activation": None, "dropout": 0.01} if linear else {"norm": True}
    num_iterations = num_iterations or (1 if kind.video else 3)
    boxes = boxes and kind.video
    parts = {
        "backbone": backbone,
        "projection": MLP(projection_dims, **arguments),
        "initializer": BoxMLP(slot_dim, keep_empty=True) if boxes else PerSlotGaussian(num_slots, slot_dim),
        "slot_attention": SlotAttention(
            slot_dim, projection_dims[-1], hidden_dim, num_iterations, bilevel=bilevel, dropout=dropout
        ),
    }
    if kind.video:
        parts["predictor"] = SlotPredictor(slot_dim, **(predictor or {}))
    if tokenizer is not None:
        parts["tokenizer"] = tokenizer
    if "continuous_target" in sizes:
        parts["continuous_target"] = sizes.pop("continuous_target")
    if kind.decoder == "mixture":
        output_dim = backbone.dim + (code_dim if tokenizer else 0)
    else:
        output_dim = tokenizer.num_codes if kind.decoder == "autoregressive" else code_dim
    decoder = build_decoder(kind.decoder, backbone.grid, slot_dim, output_dim, {**sizes, "unet": unet or {}})
    return kind.cls(**parts, decoder=decoder)
