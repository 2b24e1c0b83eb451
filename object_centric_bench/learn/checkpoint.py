"""Checkpoints: weights as safetensors, training state beside them, always whole on disk.

A checkpoint is a folder (`last`, `best`) with `model.safetensors` and, for `last`, `state.pt`. It is written under a
temporary name and put in place by renaming; the one it replaces is kept until then, so a kill at any moment leaves a
whole one: `last`, or for an instant `last.old`. What was `last` before stays as `last.old`: disks and copies damage
files, and a run can go on from there. CRC-32 tells: of all weights, kept with them, and of the parts of `state.pt`.
"""

import io
import json
import os
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..files import save_tensors

WEIGHTS, STATE = "model.safetensors", "state.pt"
CHECKSUM = "crc32"  # of tensors and facts, kept among the facts


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, made for another model, or cannot be written."""


def save(folder: Path, model: nn.Module, info: dict, state: dict | None = None, keep: bool = False) -> None:
    """Write a checkpoint folder atomically.

    Args:
        folder: final name; its parent must exist.
        model: whose state dict is written, frozen parts included.
        info: JSON-able facts kept with the weights (config, step, scores).
        state: what resuming needs: tensors, numbers, text, lists and dicts only.
        keep: leave the one before it as `NAME.old`.

    Raises:
        CheckpointError: the disk is full, or anything else that writing says; what was there before still is.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    try:
        _write(temporary, model, info, state)
        _put_in_place(temporary, folder, keep)
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)  # gives back what it took of a full disk
        free = shutil.disk_usage(folder.parent).free / 1e6
        raise CheckpointError(
            f"cannot write {folder}: {str(error).splitlines()[0]}; {free:.0f} MB are free there. What was saved before "
            "is kept: make room, the same command goes on from there"
        ) from error


def _write(temporary: Path, model: nn.Module, info: dict, state: dict | None) -> None:
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    tensors, seen = {}, set()
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor  # what two parts share is written twice
        seen.add(tensor.data_ptr())
    # one entry: safetensors writes several in an order that differs from run to run
    text = json.dumps(info | {CHECKSUM: checksum(tensors, info)})
    save_tensors(tensors, temporary / WEIGHTS, metadata={"info": text})
    if state is not None:
        torch.save(state, temporary / STATE)
    for file in [*temporary.iterdir(), temporary]:
        _flush(file)


def _put_in_place(temporary: Path, folder: Path, keep: bool) -> None:
    old = previous(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    temporary.rename(folder)
    _flush(folder.parent)
    if not keep:
        shutil.rmtree(old, ignore_errors=True)


def previous(folder: Path) -> Path:
    """Return where the checkpoint before this one is kept."""
    return folder.with_name(f"{folder.name}.old")


def checksum(tensors: dict[str, Tensor], info: dict) -> str:
    """Return the CRC-32 of contiguous tensors, their names and kinds, and JSON-able facts, in hexadecimal."""
    crc = zlib.crc32(json.dumps(info).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def recover(folder: Path, keep: bool = False) -> None:
    """Put a checkpoint back that a kill left under its other name, and remove what else the kill left.

    Args:
        folder: of the checkpoint.
        keep: as for `save`.
    """
    old = previous(folder)
    if old.is_dir() and not folder.exists():
        old.rename(folder)
    for rest in (folder.with_name(f"{folder.name}.tmp"), *([] if keep else [old])):
        shutil.rmtree(rest, ignore_errors=True)


def go_back(folder: Path) -> None:
    """Put the checkpoint before a damaged one in its place; the damaged one is kept as `NAME.damaged`."""
    damaged = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(damaged, ignore_errors=True)
    folder.rename(damaged)
    previous(folder).rename(folder)


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
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, no dict
            if not isinstance(info, dict):
                raise ValueError(f"its info is no dict but {info!r}")
            stated = info.pop(CHECKSUM, None)  # older ones and others' have none
            if stated is not None and stated != checksum(tensors, info):
                raise ValueError("its checksum does not match, bytes have changed since it was written")
            return tensors, info
        except (SafetensorError, ValueError, OSError) as error:
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
    try:  # PyTorch itself does not look at the checksums that it writes
        with zipfile.ZipFile(file) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    if wrong is not None:
        raise CheckpointError(f"{file} is damaged: the checksum of its part {wrong!r} does not match")
    return _torch_load(file)


class _Bounded(io.BufferedReader):
    """A file that never makes room for more than it has, whatever a damaged one asks to read of it."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = os.fstat(self.fileno()).st_size - self.tell()
        return super().read(left if size is None or size < 0 else min(size, left))


def _torch_load(file: Path) -> Any:
    try:
        with _Bounded(io.FileIO(file)) as opened:
            return torch.load(opened, map_location="cpu", weights_only=True)
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
    taken: dict[str, Tensor] = {}
    problems: list[str] = []
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
