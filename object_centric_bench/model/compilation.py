"""Compile a method's parts by torch.compile, in place: names of parameters, checkpoints and hooks stay as they are."""

from operator import attrgetter
from typing import Any

import torch
from torch import nn

PARTS = (
    "backbone",
    "projection",
    "slot_attention",
    "predictor",
    "decoder",
    "tokenizer.encoder",
    "tokenizer.decoder",
)
ONE_GRAPH = ("slot_attention", "decoder")  # everything that takes time is in there: a break is an error


def compile_parts(network: nn.Module, backend: str = "inductor") -> list[str]:
    """Have those parts of a method compiled where the time goes, when they run for the first time.

    What a schedule drives (`latent_mix`, `logit_scale`), what chooses at random and what depends on the data stays
    outside, so that no step compiles anew. Slot attention and decoders compile as one graph each, or fail.

    Args:
        network: a method; so is its `teacher`, if it has one.
        backend: of torch.compile.

    Returns:
        the parts, by their paths in the method.
    """
    found = []
    for path in PARTS:
        part = _get(network, path)
        if part is None:
            continue
        for name, piece in _pieces(part):
            options: dict[str, Any] = dict(backend=backend, fullgraph=path in ONE_GRAPH)
            if name is None:
                piece.compile(**options)
            else:
                setattr(piece, name, torch.compile(getattr(piece, name), **options))
        found.append(path)
    teacher = getattr(network, "teacher", None)
    taught = [] if teacher is None else compile_parts(teacher, backend)
    return found + [f"teacher.{path}" for path in taught]


def _pieces(part: nn.Module) -> list[tuple[str | None, nn.Module]]:
    """Return what of a part is compiled: (method, module), None for calling the module.

    A class may name its `compiled_methods`, or `compiled_parts`: modules inside it that are compiled in its place.
    """
    if isinstance(part, nn.ModuleList):
        return [piece for module in part for piece in _pieces(module)]
    if hasattr(part, "compiled_parts"):
        return [piece for name in part.compiled_parts for piece in _pieces(getattr(part, name))]
    return [(name, part) for name in getattr(part, "compiled_methods", (None,))]


def _get(network: nn.Module, path: str) -> nn.Module | None:
    try:
        return attrgetter(path)(network)
    except AttributeError:
        return None
