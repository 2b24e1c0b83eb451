"""Second stages of a few thousand parameters, whose parts fit together."""

import torch
from torch.nn import functional

from object_centric_bench.model.autoencoder import FeatureEncoder, ImageEncoder, Tokenizer
from object_centric_bench.model.initializer import PerSlotGaussian
from object_centric_bench.model.mlp import MLP
from object_centric_bench.model.msf import MultiScaleTokenizer
from object_centric_bench.model.quantizer import GroupedCodebook, LearnedCodebook, ProjectedCodebook
from object_centric_bench.model.slot_attention import SlotAttention

from .sizes import tiny_backbone

NUM_SLOTS, SLOT_DIM = 3, 32
GROUPS = [24, 16]
TAESD_WIDTH = 8


def make_tokenizer(kind, dim):
    """Return a tokenizer of images (vq, gdr, msf) or of the backbone's features (simvq) with codes of a width."""
    if kind == "simvq":
        return Tokenizer(FeatureEncoder(48, dim), ProjectedCodebook(40, dim, 64, logit_scale=2.0))
    encoder = ImageEncoder(dim, TAESD_WIDTH, pretrained=False)
    if kind == "msf":
        own = [ProjectedCodebook(size, dim, 64, logit_scale=2.0) for size in (GROUPS[1], 8)]
        return MultiScaleTokenizer(encoder, ProjectedCodebook(GROUPS[0], dim, 64, logit_scale=2.0), own)
    if kind == "gdr":
        return Tokenizer(encoder, GroupedCodebook(GROUPS, dim, 64, logit_scale=2.0))
    codebook = LearnedCodebook(40, dim)
    torch.nn.init.normal_(codebook.codebook)  # far enough apart for several to be used
    return Tokenizer(encoder, codebook)


def make_parts(tokenizer):
    """Return all parts of a second stage but the decoder."""
    return {
        "backbone": tiny_backbone(depth=1),
        "projection": MLP([48, 96, SLOT_DIM], norm=True),
        "initializer": PerSlotGaussian(NUM_SLOTS, SLOT_DIM),
        "slot_attention": SlotAttention(SLOT_DIM),
        "tokenizer": tokenizer,
    }


def grouped_cross_entropy(logits, code):
    """Return the summed cross-entropies of (b k h w) logits with (b h w) or, for two groups, (b 2 h w) codes."""
    if code.ndim == 3:
        return functional.cross_entropy(logits, code)
    parts = zip(logits.split(GROUPS, dim=1), code.unbind(1), strict=True)
    return sum(functional.cross_entropy(part, target) for part, target in parts)


def gradient_faults(model):
    """Return the trained parameters without a gradient, and the frozen ones with one."""
    faults = []
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("backbone.", "tokenizer."))
        has_gradient = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        truly_zero = name == "slot_attention.norm_slots.bias"
        if parameter.requires_grad == frozen or (has_gradient == frozen and not truly_zero):
            faults.append(name)
    return faults
