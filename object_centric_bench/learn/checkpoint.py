"""Checkpoints: weights as safetensors, training state beside them, always whole on disk.

A checkpoint is a folder (`last`, `best`) with `model.safetensors` and, for `last`, `state.pt`. It is written under a
temporary name and put in place by renaming; the one it replaces is kept until then, so a kill at any moment leaves a
whole one: `last`, or for an instant `last.old`.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

WEIGHTS, STATE = "model.safetensors", "state.pt"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or made for another model."""


def save(folder: Path, model: nn.Module, info: dict, state: dict | None = None) -> None:
    """Write a checkpoint folder atomically.

    Args:
        folder: final name; its parent must exist.
        model: whose state dict is written, frozen parts included.
        info: JSON-able facts kept with the weights (config, step, scores).
        state: what resuming needs: tensors, numbers, text, lists and dicts only.
    """
    temporary, old = folder.with_name(f"{folder.name}.tmp"), folder.with_name(f"{folder.name}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, temporary / WEIGHTS, metadata={"info": json.dumps(info)})
    if state is not None:
        torch.save(state, temporary / STATE)
    for file in [*temporary.iterdir(), temporary]:
        _flush(file)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    temporary.rename(folder)
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find(path: str | Path) -> Path:
    """Return the weights file that a user means by a file, a checkpoint folder or a run folder (best before last).

    Raises:
        CheckpointError: nothing there; the text lists where was looked.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.exists():
        raise CheckpointError(f"no checkpoint {str(path)!r}: no such file or folder")
    candidates = [path / WEIGHTS, path / "best" / WEIGHTS, path / "last" / WEIGHTS, path / "last.old" / WEIGHTS]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = ", ".join(str(candidate.relative_to(path)) for candidate in candidates)
    raise CheckpointError(f"no checkpoint in folder {str(path)!r}: looked for {looked}")


def read(file: Path) -> tuple[dict[str, Tensor], dict]:
    """Return the tensors of a weights file and the facts stored with it ({} for files of others).

    Reads `.safetensors`, and `.pt`/`.pth` with `weights_only=True`, which cannot run code.

    Raises:
        CheckpointError: damaged, or not a dict of tensors.
    """
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as opened:
                info = json.loads((opened.metadata() or {}).get("info", "{}"))
                return {name: opened.get_tensor(name) for name in opened.keys()}, info  # noqa: SIM118, no dict
        except (SafetensorError, json.JSONDecodeError, OSError) as error:
            raise CheckpointError(f"{file} cannot be read as safetensors: {error}") from error
    tensors = _torch_load(file)
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{file} is not a flat dict of tensors by name")
    return tensors, {}


def read_state(folder: Path) -> dict:
    """Return the training state of a checkpoint folder.

    Raises:
        CheckpointError: none there, or damaged.
    """
    file = folder / STATE
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no {STATE}: a run resumes from its `last` checkpoint only")
    return _torch_load(file)


def _torch_load(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here; each means that the file is no good
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file} cannot be read as a file of plain tensors: {first}") from error


def assign(model: nn.Module, tensors: dict[str, Tensor], source: str, prefixes: list[str] | None = None) -> list[str]:
    """Copy tensors into a model by name.

    Args:
        model: target.
        tensors: name -> tensor, in the model's own names.
        source: what to call the tensors in messages, usually a file name.
        prefixes: only these parts (`tokenizer.encoder`) are loaded and must be complete; None = the whole model.

    Returns:
        The names that were loaded.

    Raises:
        CheckpointError: names or shapes differ; all are listed (long lists are cut). Nothing is loaded then.
    """
    target = model.state_dict()

    def wanted(name: str) -> bool:
        return prefixes is None or any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)

    expected = {name for name in target if wanted(name)}
    found = {name for name in tensors if wanted(name)}
    common = sorted(expected & found)
    different = [name for name in common if tensors[name].shape != target[name].shape]
    shapes = [
        f"{name} is {tuple(tensors[name].shape)}, the model has {tuple(target[name].shape)}" for name in different
    ]
    problems = [
        *_listed("missing", [f"{name} {tuple(target[name].shape)}" for name in sorted(expected - found)]),
        *_listed("unexpected", [f"{name} {tuple(tensors[name].shape)}" for name in sorted(found - expected)]),
        *_listed("shape", shapes),
        *_listed("no such part", [prefix for prefix in prefixes or [] if not _has(expected, prefix)]),
    ]
    if problems:
        raise CheckpointError("\n  ".join([f"{source} does not fit this model:", *problems]))
    model.load_state_dict({name: tensors[name] for name in expected}, strict=False)
    return sorted(expected)


def take(tensors: dict[str, Tensor], parts: dict[str, str], source: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint's parts under the names of the parts that start from them.

    Args:
        tensors: name -> tensor.
        parts: name of a part -> that of the one in the checkpoint; "" is the whole checkpoint.
        source: what to call the tensors in messages.

    Raises:
        CheckpointError: the checkpoint has no such parts; all are listed.
    """
    taken, problems = {}, []
    for target, origin in parts.items():
        prefix = f"{origin}." if origin else ""
        found = {f"{target}.{name[len(prefix) :]}": value for name, value in tensors.items() if name.startswith(prefix)}
        if not found:
            problems.append(f"no part {origin!r}, from which {target!r} starts")
        taken |= found
    if problems:
        there = ", ".join(sorted({name.partition(".")[0] for name in tensors}))
        raise CheckpointError("\n  ".join([f"{source} holds {there}:", *problems]))
    return taken


def _listed(kind: str, entries: list[str], most: int = 12) -> list[str]:
    more = [f"{kind}: {len(entries) - most} more"] if len(entries) > most else []
    return [f"{kind}: {entry}" for entry in entries[:most]] + more


def _has(names: set[str], prefix: str) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for name in names)
