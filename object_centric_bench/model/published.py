"""Checkpoints published by the authors of VVO and MultiScaleFusion, under our names.

Every tensor is assigned by its name; position and order never count. `python -m object_centric_bench.model.published
IN.pth OUT.safetensors` converts a file once; training and evaluation read published files as they are, too.
"""

import argparse
import os
import pickle
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from object_centric_bench.files import save_tensors
from object_centric_bench.model.published_names import MODULES, MOST, STAGE_ONE, STAGE_TWO, Form, matches, replace
from object_centric_bench.model.weights import WeightsError

PREFIX = "m."  # starts every published name
TOKENIZER = "m.mediat."  # starts a tokenizer's names, except where the tokenizer is the whole model
UNKNOWN = "no method known here"
MOST_FAULTS = 40  # lines of a message


class Layout(NamedTuple):
    """What a checkpoint or a model consists of: the form of each module, and the table of names, theirs to ours."""

    forms: dict[str, str]
    names: dict[str, str]

    @property
    def method(self) -> str:
        """Return the class of ours that has these modules, or `UNKNOWN`."""
        encoder = self.forms.get("encoder")
        if "slot_attention" not in self.forms:
            complete = {"quantizer", "image_decoder"} <= self.forms.keys()
            return STAGE_ONE.get(encoder, UNKNOWN) if complete else UNKNOWN
        video = "predictor" in self.forms or self.forms.get("initializer") == "box"
        return STAGE_TWO.get((encoder, self.forms.get("decoder")), (UNKNOWN, UNKNOWN))[video] or UNKNOWN


def is_published(state: Iterable[str]) -> bool:
    """Tell whether a checkpoint's names are the authors'."""
    names = list(state)
    return bool(names) and all(name.startswith(PREFIX) for name in names)


def layout_of(state: Mapping[str, Tensor]) -> Layout:
    """Return what a published checkpoint consists of."""
    is_tokenizer = not any(name.startswith((TOKENIZER, "m.aggregat.")) for name in state)
    prefix = PREFIX if is_tokenizer else TOKENIZER
    forms: dict[str, str] = {}
    names: dict[str, str] = {}
    for module, (their, our, choices) in MODULES.items():
        if is_tokenizer and module == "decoder":  # `m.decode.` is the tokenizer's then
            continue
        their = re.sub(r"^T\.", prefix, their)
        own = [name.removeprefix(their) for name in state if name.startswith(their)]
        for form, entry in choices.items():
            if form == "multi-scale" and not _has_full_width(state, prefix):
                continue
            if all(any(matches(mark, name) for name in own) for mark in entry.marks):
                forms[module] = form
                table = _table(entry, own, side=0)
                names |= {their + key: our + value for key, value in table.items()}
                break
    return Layout(forms, names)


def _has_full_width(state: Mapping[str, Tensor], prefix: str) -> bool:
    """Tell whether each of several codebooks has the latents' width; groups share it among them."""
    latent, codebook = (state.get(prefix + name) for name in ("encode.3.bias", "quant.0.project.bias"))
    return latent is not None and codebook is not None and latent.shape == codebook.shape


def _table(form: Form, own: list[str], side: int) -> dict[str, str]:
    """Return a form's names with as many repeated parts as there are in these names, theirs (side 0) or ours (1)."""
    table = dict(form.names)
    if form.repeated is not None:
        parts = [dict(form.repeated(index)) for index in range(MOST)]
        found = [any(matches(pair[side], name) for pair in part.items() for name in own) for part in parts]
        for part in parts[: max((index + 1 for index, hit in enumerate(found) if hit), default=0)]:
            table |= part
    return table


def layout_of_model(model: nn.Module) -> Layout:
    """Return what a model of ours consists of."""
    forms: dict[str, str] = {}
    names: dict[str, str] = {}
    for module, (their, our, choices) in MODULES.items():
        own = [name.removeprefix(our) for name in model.state_dict() if name.startswith(our)]
        for form, entry in choices.items():
            table = _table(entry, own, side=1)
            marks = [_look_up(mark, table) for mark in entry.marks]
            if all(mark is not None and any(matches(mark, name) for name in own) for mark in marks):
                forms[module] = form
                names |= {their + key: our + value for key, value in table.items()}
                break
    prefix = TOKENIZER if {"slot_attention", "backbone"} & forms.keys() else PREFIX
    return Layout(forms, {re.sub(r"^T\.", prefix, key): value for key, value in names.items()})


def _look_up(name: str, table: Mapping[str, str]) -> str | None:
    return next((replace(their, name, our) for their, our in table.items() if matches(their, name)), None)


def method_of(state: Mapping[str, Tensor]) -> str:
    """Return which of our methods a published checkpoint is of, or `UNKNOWN`."""
    return layout_of(state).method


def kind_of(state: Mapping[str, Tensor]) -> str:
    """Return in words what a published checkpoint is of."""
    layout = layout_of(state)
    return describe(layout.method, layout)


def describe(method: str, layout: Layout) -> str:
    """Return a method in words; those whose tokenizer takes images come with four kinds of codes."""
    codes = layout.forms.get("quantizer") if layout.forms.get("encoder") == "image" else None
    return f"{method} with {codes} codes" if codes else method


def names(model: nn.Module) -> dict[str, str]:
    """Return the table of a model: their names to ours, where a `*` at the end stands for any rest.

    Raises:
        WeightsError: no checkpoints are published for such a model.
    """
    layout = layout_of_model(model)
    foreign = [name for name in model.state_dict() if not any(matches(our, name) for our in layout.names.values())]
    if foreign or layout.method == UNKNOWN:
        among = f" with {', '.join(foreign[:3])}" if foreign else ""
        raise WeightsError(f"no published checkpoints are known for {type(model).__name__}{among}")
    return layout.names


def rename(name: str, table: Mapping[str, str]) -> str | None:
    """Return our name of a published tensor, or None if the table has none."""
    return _look_up(name, table)


def translate(state: Mapping[str, Tensor], model: nn.Module, parts: list[str] | None = None) -> dict[str, Tensor]:
    """Rename a published checkpoint such that the model loads it strictly.

    Args:
        state: the checkpoint, names to tensors.
        model: of the checkpoint's method and sizes.
        parts: only these modules of the model, such as `tokenizer.encoder`; the checkpoint may be of the other stage
            then. None = the whole model.

    Returns:
        our names to the same tensors, exactly those of `model.state_dict()` (of the parts).

    Raises:
        WeightsError: it is another method's checkpoint, or tensors are missing, unexpected or of another shape, which
            the message lists; or the model has no such part.
    """

    def wanted(name: str) -> bool:
        return parts is None or any(name == part or name.startswith(f"{part}.") for part in parts)

    layout = layout_of(state)
    own = {name: tensor for name, tensor in model.state_dict().items() if wanted(name)}
    absent = [part for part in parts or [] if not any(f"{name}.".startswith(f"{part}.") for name in own)]
    if absent:
        raise WeightsError(f"the model has no part {', '.join(absent)}")
    translated, faults = {}, []
    for name, tensor in state.items():
        our = rename(name, layout.names)
        if parts is not None and (our is None or not wanted(our)):
            continue
        if our is None or our not in own:
            faults.append(f"unexpected: {name}" + (f" (would be {our})" if our else ""))
        elif our in translated:
            faults.append(f"twice: {our}, the second time from {name}")
        else:
            translated[our] = tensor
            if tensor.shape != own[our].shape:
                faults.append(f"shape: {name} is {tuple(tensor.shape)}, {our} is {tuple(own[our].shape)}")
    faults += [f"missing: {our}" for our in own if our not in translated]
    if faults:
        own_layout = layout_of_model(model)
        given, needed = describe(layout.method, layout), describe(type(model).__name__, own_layout)
        kinds = [[each.forms.get(module) for module in ("encoder", "quantizer")] for each in (layout, own_layout)]
        other = given != needed if parts is None else kinds[0] != kinds[1]  # parts are of another stage's model
        first = f"this is a checkpoint of {given}, the model is {needed}; " if other else ""
        raise WeightsError(f"{first}{len(faults)} tensors do not fit:\n{_listed(faults)}")
    return translated


def _listed(faults: list[str]) -> str:
    more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
    return "\n".join([*faults[:MOST_FAULTS], *more])


def translate_alone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a whole published checkpoint without a model to compare it with.

    Raises:
        WeightsError: the names are not the authors', or some are unknown or missing, which the message lists.
    """
    if not is_published(state):
        few = ", ".join(list(state)[:3])
        raise WeightsError(f"names do not all start with {PREFIX!r} as the authors' do, but are {few}, ...")
    layout = layout_of(state)
    pairs = [(name, rename(name, layout.names)) for name in state]
    faults = [f"unknown: {name}" for name, our in pairs if our is None]
    count = Counter(our for _, our in pairs if our is not None)
    faults += [f"twice: {our}" for our, times in count.items() if times > 1]
    faults += [f"missing: {our}" for our in dict.fromkeys(layout.names.values()) if not _any_matches(our, count)]
    if faults or layout.method == UNKNOWN:
        given = describe(layout.method, layout)
        raise WeightsError(f"this is a checkpoint of {given}; {len(faults)} names do not fit:\n{_listed(faults)}")
    return {our: state[name] for name, our in pairs if our is not None}


def _any_matches(pattern: str, candidates: Iterable[str]) -> bool:
    return any(matches(pattern, name) for name in candidates)


def read(file: Path) -> dict[str, Tensor]:
    """Read a published file; nothing in it is executed.

    Raises:
        WeightsError: there is none, it cannot be read, or holds something else than named tensors.
    """
    if not file.is_file():
        raise WeightsError(f"no file {file}")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        called = re.search(r"GLOBAL ([\w.]+)", str(error))
        if called is None:
            raise WeightsError(f"{file} is no PyTorch file") from error
        raise WeightsError(
            f"{file} is refused: beside tensors it holds {called[1]}, and reading that would run code"
        ) from error
    except Exception as error:  # torch raises many kinds; each means that this is no checkpoint, or a damaged one
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{file} cannot be read as a PyTorch file: {first}") from error
    if not isinstance(state, dict) or not state:
        raise WeightsError(f"{file} holds no named tensors but a {type(state).__name__}")
    other = [f"{key!r} ({type(value).__name__})" for key, value in state.items() if not isinstance(value, Tensor)]
    if other or not all(isinstance(key, str) for key in state):
        raise WeightsError(f"{file} holds no table of named tensors, but {', '.join(other[:3]) or 'unnamed ones'}")
    return state


def write(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file under a temporary name and put it in place when it is whole.

    Raises:
        WeightsError: it cannot be written.
    """
    temporary = file.with_name(f"{file.name}.partial")
    try:
        save_tensors({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, temporary)
        with temporary.open("rb") as opened:
            os.fsync(opened.fileno())
        temporary.replace(file)
    except Exception as error:  # safetensors has a class of its own for what OSError means elsewhere
        temporary.unlink(missing_ok=True)
        raise WeightsError(f"{file} cannot be written: {error}") from error


def summary(tensors: Mapping[str, Tensor]) -> str:
    """Return a line per module: its tensors and numbers."""
    counts: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        row = counts.setdefault(".".join(parts[: 2 if parts[0] == "tokenizer" else 1]), [0, 0])
        row[0] += 1
        row[1] += tensor.numel()
    total = [sum(row[index] for row in counts.values()) for index in (0, 1)]
    return "\n".join(
        f"  {name:22} {tensors:5} tensors {numbers:14,} numbers"
        for name, (tensors, numbers) in [*counts.items(), ("sum", total)]
    )


def main(arguments: list[str] | None = None) -> int:
    """Convert a checkpoint published by the authors of VVO or MultiScaleFusion to our names: safetensors."""
    parser = argparse.ArgumentParser(
        prog="python -m object_centric_bench.model.published",
        description="Convert a checkpoint published by the authors of VVO or MultiScaleFusion to safetensors.",
        epilog="example:\n  python -m object_centric_bench.model.published downloaded/best.pth vvo_tfd.safetensors",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="IN.pth", type=Path, help="the published file")
    parser.add_argument("target", metavar="OUT.safetensors", type=Path, help="the file to write")
    parser.add_argument("--force", action="store_true", help="replace an existing OUT.safetensors")
    options = parser.parse_args(arguments)
    try:
        if options.target.suffix != ".safetensors":
            raise WeightsError(f"{options.target}: the name of what is written must end with .safetensors")
        if options.target.exists() and not options.force:
            raise WeightsError(f"{options.target} exists; add --force to replace it")
        state = read(options.source)
        tensors = translate_alone(state)
        write(tensors, options.target)
    except WeightsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.source}: {kind_of(state)}\n{summary(tensors)}\nwrote {options.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
