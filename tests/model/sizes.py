"""Models of the sizes that the published checkpoints and the reference numbers have."""

from object_centric_bench.model.autoencoder import FeatureEncoder, ImageDecoder, Tokenizer
from object_centric_bench.model.autoregressive import AutoregressiveTransformer
from object_centric_bench.model.backbone import Backbone
from object_centric_bench.model.broadcast import BroadcastMLP
from object_centric_bench.model.dinosaur import DINOSAUR
from object_centric_bench.model.initializer import PerSlotGaussian
from object_centric_bench.model.mlp import MLP
from object_centric_bench.model.quantizer import ProjectedCodebook
from object_centric_bench.model.slot_attention import SlotAttention
from object_centric_bench.model.vvo import VQDINO, VVOMlp, VVOTfd

DINOV2 = "vit_small_patch14_dinov2"


def tiny_backbone(width=48, resolution=(56, 56), depth=2, num_heads=3, **options):
    """A DINOv2 of any size, with random weights."""
    options = {"embed_dim": width, "depth": depth, "num_heads": num_heads, **options}
    return Backbone("timm", DINOV2, list(resolution), pretrained=False, options=options)


def build_method(
    method,
    backbone,
    num_slots=4,
    slot_dim=32,
    num_codes=64,
    code_dim=32,
    basis_dim=1024,
    encoder_dim=None,
    logit_scale=0.0,
    hidden_dim=None,
    projection_dims=None,
    decoder_dims=(64, 64, 64),
    num_layers=2,
    num_heads=4,
    transformer_hidden_dim=None,
    taesd_width=16,
    upscale_dim=32,
    num_iterations=3,
    bilevel=True,
    dropout=0.01,
):
    """Compose one of the four methods from plain sizes."""
    projection_dims = projection_dims or [backbone.dim, 2 * backbone.dim, slot_dim]

    def tokenizer(decoder=None):
        quantizer = ProjectedCodebook(num_codes, code_dim, basis_dim, logit_scale)
        return Tokenizer(FeatureEncoder(backbone.dim, code_dim, encoder_dim), quantizer, decoder)

    if method == "VQDINO":
        return VQDINO(backbone, tokenizer(ImageDecoder(code_dim, upscale_dim, taesd_width, pretrained=False)))
    if method == "VVOTfd":
        projection = MLP(projection_dims, activation=None, dropout=0.01)
    else:
        projection = MLP(projection_dims, norm=True)
    parts = {
        "backbone": backbone,
        "projection": projection,
        "initializer": PerSlotGaussian(num_slots, slot_dim),
        "slot_attention": SlotAttention(
            slot_dim, projection_dims[-1], hidden_dim, num_iterations, bilevel=bilevel, dropout=dropout
        ),
    }
    widths = [slot_dim, *decoder_dims]
    if method == "DINOSAUR":
        return DINOSAUR(**parts, decoder=BroadcastMLP(backbone.grid, [*widths, backbone.dim]))
    if method == "VVOMlp":
        decoder = BroadcastMLP(backbone.grid, [*widths, code_dim + backbone.dim])
        return VVOMlp(**parts, tokenizer=tokenizer(), decoder=decoder)
    decoder = AutoregressiveTransformer(
        backbone.grid, slot_dim, num_codes, num_layers, num_heads, transformer_hidden_dim
    )
    return VVOTfd(**parts, tokenizer=tokenizer(), decoder=decoder)
