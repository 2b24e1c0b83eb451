"""The names in checkpoints published by the authors of VVO and MultiScaleFusion, and ours, module by module.

github.com/Genera1Z/VQ-VFM-OCL and github.com/Genera1Z/MultiScaleFusion. The only file that knows the authors' names.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

MOST = 64  # repeated parts looked for: layers, groups, scales


class Form(NamedTuple):
    """The names of one module, in one of the forms it comes in; without the module's prefix.

    Attributes:
        names: theirs to ours; a `*` at the end stands for any rest, the same on both sides.
        marks: names of theirs that together tell this form from the others of its module.
        repeated: names of the i-th of several equal parts.
    """

    names: Mapping[str, str]
    marks: Sequence[str]
    repeated: Callable[[int], Mapping[str, str]] | None = None


class Module(NamedTuple):
    """A module's prefix there and here, and its forms; the first that a checkpoint has the marks of is its form.

    A prefix there that starts with `T.` is the tokenizer's.
    """

    theirs: str
    ours: str
    forms: Mapping[str, Form]


def matches(pattern: str, name: str) -> bool:
    """Tell whether a name is that of a pattern, which may end with `*`."""
    if pattern.endswith("*"):
        return name.startswith(pattern[:-1]) and len(name) >= len(pattern)
    return name == pattern


def replace(pattern: str, name: str, other: str) -> str:
    """Return a name that matches the pattern as the other pattern has it."""
    return other[:-1] + name[len(pattern) - 1 :] if pattern.endswith("*") else other


def taesd(prefix: str, first: int, layers: Sequence[int]) -> dict[str, str]:
    """Return the names of layers of TAESD: ours keep the numbers of its authors, theirs start from 0 at `first`."""
    with_weights = [layer for layer in layers if layer not in TAESD_WEIGHTLESS]
    return {f"{prefix}.{layer - first}.*": f"taesd.{layer}.*" for layer in with_weights}


TAESD_WEIGHTLESS = (5, 10, 15)  # of its decoder: they double the resolution
TAESD_ENCODER = {f"1.{layer}.*": f"taesd.{layer}.*" for layer in range(14)}


def linear_layers(prefix: str, step: int) -> Callable[[int], dict[str, str]]:
    """Return the names of linear layers in a sequence that counts the `step - 1` modules after each, too."""
    return lambda index: {f"{prefix}{step * index}.*": f"layers.{index}.*"}


def transformer_layer(index: int) -> dict[str, str]:
    """Return the names of a layer of the autoregressive decoder; in the first the norm is the decoder's own."""
    names = {
        "norm1.*": "norm_self.*",
        "self_attn.in_proj_weight": "self_attention.to_qkv.weight",
        "self_attn.out_proj.*": "self_attention.to_out.*",
        "norm2.*": "norm_cross.*",
        "multihead_attn.in_proj_weight": "cross_attention.to_qkv.weight",
        "multihead_attn.out_proj.*": "cross_attention.to_out.*",
        "norm3.*": "norm_mlp.*",
        "linear1.*": "mlp_in.*",
        "linear2.*": "mlp_out.*",
    }
    if index == 0:
        del names["norm1.*"]
    return {f"backbone.layers.{index}.{their}": f"layers.{index}.{our}" for their, our in names.items()}


def projected(their: str, our: str) -> dict[str, str]:
    """Return the names of one projected codebook."""
    return {f"{their}codebook.weight": f"{our}basis", f"{their}project.*": f"{our}code_proj.*"}


POSITION = {  # the second since January 2026
    "posit_embed.pe": "position.embedding",
    "posit_embed._pe": "position.embedding",
}
PREDICTOR = ("self_attn.in_proj_weight", "self_attn.out_proj.*", "linear1.*", "linear2.*", "norm1.*", "norm2.*")

MODULES = {
    "backbone": Module("m.encode_backbone.1.", "backbone.model.", {"timm": Form({"*": "*"}, ["*"])}),
    "projection": Module(
        "m.encode_project.",
        "projection.",
        {
            "normed": Form(
                {"0.*": "norm.*", "1.*": "layers.0.*", "3.*": "layers.1.*"}, ["0.weight", "1.weight", "3.weight"]
            ),
            "linear": Form({"0.*": "layers.0.*", "2.*": "layers.1.*"}, ["0.weight", "2.weight"]),
        },
    ),
    "initializer": Module(
        "m.initializ.",
        "initializer.",
        {
            "gaussian": Form({"mean": "mean", "logstd": "log_std"}, ["mean"]),
            "box": Form({"0.*": "mlp.layers.0.*", "2.*": "mlp.layers.1.*"}, ["0.weight"]),
        },
    ),
    "slot_attention": Module(
        "m.aggregat.",
        "slot_attention.",
        {
            "slot attention": Form(
                {
                    "norm1kv.*": "norm_tokens.*",
                    "proj_k.*": "to_key.*",
                    "proj_v.*": "to_value.*",
                    "norm1q.*": "norm_slots.*",
                    "proj_q.*": "to_query.*",
                    "rnn.*": "gru.*",
                    "norm2.*": "mlp.norm.*",
                    "ffn.0.*": "mlp.layers.0.*",
                    "ffn.3.*": "mlp.layers.1.*",
                },
                ["rnn.weight_ih"],
            )
        },
    ),
    "predictor": Module(
        "m.transit.",
        "predictor.",
        {"transformer": Form({name: f"layer.{name}" for name in PREDICTOR}, ["linear1.weight"])},
    ),
    "encoder": Module(
        "T.encode.",
        "tokenizer.encoder.",
        {
            "feature": Form(
                {
                    "0.0.*": "convs.0.*",
                    "0.1.*": "norms.0.*",
                    "0.3.*": "convs.1.*",
                    "0.4.*": "norms.1.*",
                    "0.6.*": "convs.2.*",
                    "1.*": "norms.2.*",
                    "2.*": "to_latent.*",
                },
                ["0.0.weight"],
            ),
            "image": Form({**TAESD_ENCODER, "2.*": "norm.*", "3.*": "to_latent.*"}, ["1.0.weight"]),
        },
    ),
    "quantizer": Module(
        "T.",
        "tokenizer.",
        {
            "learned": Form({"codebook.templat.weight": "quantizer.codebook"}, ["codebook.templat.weight"]),
            "projected": Form(projected("quant.", "quantizer."), ["quant.codebook.weight", "quant.project.weight"]),
            "multi-scale": Form(
                projected("quant.0.", "shared."),
                ["quant.0.codebook.weight"],
                lambda index: projected(f"quant.{index + 1}.", f"quantizers.{index}."),
            ),
            "grouped": Form(
                projected("quant.0.", "quantizer.groups.0."),
                ["quant.0.codebook.weight"],
                lambda index: projected(f"quant.{index + 1}.", f"quantizer.groups.{index + 1}."),
            ),
        },
    ),
    "image_decoder": Module(
        "T.decode.",
        "tokenizer.decoder.",
        {
            "feature": Form(
                {
                    "0.*": "from_latent.*",
                    "1.0.*": "upscale.0.*",
                    "1.1.*": "upscale.1.*",
                    "1.3.0.*": "upscale.3.*",
                    "1.4.*": "upscale.5.*",
                    "1.6.*": "upscale.7.*",
                    "2.*": "norm.*",
                    **taesd("4", 2, range(2, 5)),
                    **taesd("5", 6, range(6, 19)),
                },
                ["0.weight", "1.3.0.weight"],
            ),
            "image": Form(
                {"0.*": "from_latent.*", "1.*": "norm.*", **taesd("2", 2, range(2, 19))}, ["0.weight", "1.weight"]
            ),
        },
    ),
    "decoder": Module(
        "m.decode.",
        "decoder.",
        {
            "autoregressive": Form(
                {"bos": "start", "norm0.*": "norm.*", "readout.*": "head.*", **POSITION}, ["bos"], transformer_layer
            ),
            "diffusion": Form({"backbone.*": "unet.*"}, ["backbone.conv_in.weight"]),
            "mixture": Form(POSITION, ["backbone.0.weight"], linear_layers("backbone.", step=2)),
        },
    ),
}
STAGE_ONE = {"feature": "VQDINO", "image": "VQVAE"}  # by what the tokenizer encodes
STAGE_TWO = {  # by what the tokenizer encodes and by the decoder: for images, for videos
    ("image", "autoregressive"): ("SLATE", "STEVE"),
    ("image", "diffusion"): ("SlotDiffusion", None),
    ("feature", "autoregressive"): ("VVOTfd", "VVOTfdT"),
    ("feature", "mixture"): ("VVOMlp", "VVOMlpT"),
    ("feature", "diffusion"): ("VVODfz", "VVODfzT"),
    (None, "mixture"): ("DINOSAUR", None),
}
