"""Checkpoints published by the authors of VVO (github.com/Genera1Z/VQ-VFM-OCL): their names to ours.

The only file that knows the authors' names. Every tensor is assigned by its name; position and order never count.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from object_centric_bench.model.autoregressive import AutoregressiveTransformer
from object_centric_bench.model.broadcast import BroadcastMLP
from object_centric_bench.model.dinosaur import DINOSAUR
from object_centric_bench.model.initializer import BoxMLP
from object_centric_bench.model.vvo import VQDINO, VVOMlp, VVOTfd
from object_centric_bench.model.weights import WeightsError

PREFIX = "m."  # starts every published name

# Per module: their names (after the module's prefix) and ours; `*` stands for any rest, the same on both sides.
BACKBONE = {"*": "*"}  # timm's names
PROJECTION_WITH_NORM = {"0.*": "norm.*", "1.*": "layers.0.*", "3.*": "layers.1.*"}
PROJECTION = {"0.*": "layers.0.*", "2.*": "layers.1.*"}
GAUSSIAN = {"mean": "mean", "logstd": "log_std"}
BOX_MLP = {"0.*": "mlp.layers.0.*", "2.*": "mlp.layers.1.*"}
SLOT_ATTENTION = {
    "norm1kv.*": "norm_tokens.*",
    "proj_k.*": "to_key.*",
    "proj_v.*": "to_value.*",
    "norm1q.*": "norm_slots.*",
    "proj_q.*": "to_query.*",
    "rnn.*": "gru.*",
    "norm2.*": "mlp.norm.*",
    "ffn.0.*": "mlp.layers.0.*",
    "ffn.3.*": "mlp.layers.1.*",
}
FEATURE_ENCODER = {
    "0.0.*": "convs.0.*",
    "0.1.*": "norms.0.*",
    "0.3.*": "convs.1.*",
    "0.4.*": "norms.1.*",
    "0.6.*": "convs.2.*",
    "1.*": "norms.2.*",
    "2.*": "to_latent.*",
}
PROJECTED_CODEBOOK = {"codebook.weight": "basis", "project.*": "code_proj.*"}
IMAGE_DECODER = {
    "0.*": "from_latent.*",
    "1.0.*": "upscale.0.*",
    "1.1.*": "upscale.1.*",
    "1.3.0.*": "upscale.3.*",
    "1.4.*": "upscale.5.*",
    "1.6.*": "upscale.7.*",
    "2.*": "norm.*",
    **{f"4.{layer - 2}.*": f"taesd.{layer}.*" for layer in range(2, 5)},  # TAESD's own numbers on our side
    **{f"5.{layer - 6}.*": f"taesd.{layer}.*" for layer in range(6, 19)},
}
POSITION = {"posit_embed.pe": "position.embedding", "posit_embed._pe": "position.embedding"}
AUTOREGRESSIVE = {"bos": "start", "norm0.*": "norm.*", "readout.*": "head.*", **POSITION}
AUTOREGRESSIVE_LAYER = {
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


def is_published(state: Iterable[str]) -> bool:
    """Tell whether a checkpoint's names are the authors'."""
    names = list(state)
    return bool(names) and all(name.startswith(PREFIX) for name in names)


def method_of(state: Iterable[str]) -> str:
    """Return which of our methods a published checkpoint is of, or what else it is in words."""
    names = set(state)

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in names)

    if has("m.transit.") or has("m.initializ.0."):
        return "a video method"
    if has("m.mediat.quant.codebook."):
        if not has("m.aggregat."):
            return "VQDINO"
        if "m.decode.bos" in names:
            return "VVOTfd"
        if has("m.decode.backbone.0."):
            return "VVOMlp"
        return "a method with a diffusion decoder"
    if has("m.mediat."):
        return "a method with another tokenizer"
    if has("m.aggregat.") and has("m.decode.backbone.0."):
        return "DINOSAUR"
    return "no method known here"


def names(model: nn.Module) -> dict[str, str]:
    """Return the table of a model: their names to ours, with `*` for any rest.

    Raises:
        WeightsError: the model's class has no published checkpoints.
    """
    if not isinstance(model, (VQDINO, VVOTfd, VVOMlp, DINOSAUR)):
        raise WeightsError(f"no published checkpoints are known for {type(model).__name__}")
    tables = [("m.encode_backbone.1.", "backbone.model.", BACKBONE)]
    if hasattr(model, "tokenizer"):
        tables += [
            ("m.mediat.encode.", "tokenizer.encoder.", FEATURE_ENCODER),
            ("m.mediat.quant.", "tokenizer.quantizer.", PROJECTED_CODEBOOK),
            ("m.mediat.decode.", "tokenizer.decoder.", IMAGE_DECODER),
        ]
    if hasattr(model, "slot_attention"):
        with_norm = isinstance(getattr(model.projection, "norm", None), nn.LayerNorm)
        tables += [
            ("m.encode_project.", "projection.", PROJECTION_WITH_NORM if with_norm else PROJECTION),
            ("m.initializ.", "initializer.", BOX_MLP if isinstance(model.initializer, BoxMLP) else GAUSSIAN),
            ("m.aggregat.", "slot_attention.", SLOT_ATTENTION),
            *_decoder_tables(model.decoder),
        ]
    return {their + key: our + value for their, our, table in tables for key, value in table.items()}


def _decoder_tables(decoder: nn.Module) -> list[tuple[str, str, dict[str, str]]]:
    if isinstance(decoder, BroadcastMLP):
        # Their sequence counts the activations between the layers.
        layers = {f"backbone.{2 * index}.*": f"layers.{index}.*" for index in range(len(decoder.layers))}
        return [("m.decode.", "decoder.", {**layers, **POSITION})]
    if isinstance(decoder, AutoregressiveTransformer):
        layers = [
            (f"m.decode.backbone.layers.{index}.", f"decoder.layers.{index}.", AUTOREGRESSIVE_LAYER)
            for index in range(len(decoder.layers))
        ]
        return [("m.decode.", "decoder.", AUTOREGRESSIVE), *layers]
    raise WeightsError(f"no published checkpoints are known with a {type(decoder).__name__}")


def rename(name: str, table: Mapping[str, str]) -> str | None:
    """Return our name of a published tensor, or None if the table has none."""
    for their, our in table.items():
        if match := re.fullmatch(re.escape(their).replace(r"\*", "(.+)"), name):
            return our.replace("*", match.group(1)) if match.groups() else our
    return None


def translate(state: Mapping[str, Tensor], model: nn.Module, parts: list[str] | None = None) -> dict[str, Tensor]:
    """Rename a published checkpoint such that the model loads it strictly.

    Args:
        state: the checkpoint, names to tensors.
        model: VQDINO, VVOTfd, VVOMlp or DINOSAUR of the checkpoint's sizes.
        parts: only these modules of the model, such as `tokenizer.encoder`; the checkpoint may be of the other stage
            then. None = the whole model.

    Returns:
        our names to the same tensors, exactly those of `model.state_dict()` (of the parts).

    Raises:
        WeightsError: it is another method's checkpoint, or tensors are missing, unexpected or of another shape; the
            message lists all of them.
    """

    def wanted(name: str) -> bool:
        return parts is None or any(name.startswith(f"{part}.") for part in parts)

    table = names(model)
    own = {name: tensor for name, tensor in model.state_dict().items() if wanted(name)}
    translated, faults = {}, []
    for name, tensor in state.items():
        our = rename(name, table)
        if parts is not None and (our is None or not wanted(our)):
            continue
        if our is None or our not in own:
            faults.append(f"unexpected: {name}" + (f" (would be {our})" if our else ""))
        elif our in translated:
            faults.append(f"twice: {our}, the second time from {name}")
        elif tensor.shape != own[our].shape:
            faults.append(f"shape: {name} is {tuple(tensor.shape)}, {our} is {tuple(own[our].shape)}")
            translated[our] = tensor
        else:
            translated[our] = tensor
    faults += [f"missing: {our}" for our in own if our not in translated]
    if faults:
        given, needed = method_of(state), type(model).__name__
        first = f"this is a checkpoint of {given}, the model is {needed}; " if given != needed else ""
        raise WeightsError(f"{first}{len(faults)} tensors do not fit:\n" + "\n".join(faults))
    return translated
