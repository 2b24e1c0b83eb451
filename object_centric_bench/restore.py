"""What a run starts from: a checkpoint of its own, stage 1, or the authors' published weights; and what it leaves."""

import json
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

from . import config as configs
from .learn import checkpoint
from .learn.callback import restore
from .learn.loop import Run
from .model import published
from .model.weights import mark
from .registry import ConfigError


def load_weights(run: Run, source: Path) -> dict:
    """Load a whole model from a checkpoint (ours, or a published one); return the facts stored with it.

    Raises:
        CheckpointError: it does not fit; names and shapes are listed.
    """
    file = checkpoint.find(source)
    tensors, info = checkpoint.read(file)
    network = run.accelerator.unwrap_model(run.model)
    if published.is_published(tensors):
        tensors = published.translate(tensors, network)
    checkpoint.assign(network, tensors, str(file))
    run.step = info.get("step", run.total_steps)
    return info


def load_pretrained(run: Run, source: Path) -> None:
    """Load what the config's `pretrain` takes from stage 1 (or, without `pretrain`, initial weights for all).

    Its `modules` are names of parts, or a dict from such names to those of the parts of stage 1 that they start from;
    there "" is the whole of it.

    Raises:
        CheckpointError: it does not fit; names and shapes are listed.
    """
    file = checkpoint.find(source)
    tensors, _ = checkpoint.read(file)
    network = run.accelerator.unwrap_model(run.model)
    modules = run.cfg["pretrain"]["modules"] if run.cfg["pretrain"] else None
    if isinstance(modules, dict):
        tensors = checkpoint.take(tensors, modules, str(file))
        modules = list(modules)
    elif published.is_published(tensors):
        tensors = published.translate(tensors, network, modules)
    loaded = checkpoint.assign(network, tensors, str(file), modules)
    for module in [network] if modules is None else [network.get_submodule(name) for name in modules]:
        mark(module, file)
    print(f"weights of {', '.join(modules) if modules else 'the whole model'} from {file} ({len(loaded)} tensors)")


def resume(run: Run) -> bool:
    """Bring a run back to its `last` checkpoint; return False if there is none.

    Raises:
        ConfigError: that checkpoint was made under another config; the difference is shown.
        CheckpointError: it is damaged.
    """
    folder = next((run.folder / name for name in ("last", "last.old") if (run.folder / name).is_dir()), None)
    if folder is None:
        return False
    state = checkpoint.read_state(folder)
    difference = configs.diff(json.loads(state["config"]), run.cfg)
    if difference:
        raise ConfigError("\n  ".join([f"{folder} was made under another config:", *difference]))
    tensors, _ = checkpoint.read(folder / checkpoint.WEIGHTS)
    network = run.accelerator.unwrap_model(run.model)
    checkpoint.assign(network, tensors, str(folder))
    mark(network, folder / checkpoint.WEIGHTS)
    restore(run, state)
    print(f"resumed {folder} at step {run.step} of {run.total_steps}")
    return True


def write_description(run: Run, cfg_file: str | Path) -> None:
    """Write `config.json` (resolved), `config.txt` (a leaf per line) and `env.json` into the run folder."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "config.json").write_text(json.dumps(run.cfg, indent=1) + "\n")
    (run.folder / "config.txt").write_text("\n".join(configs.show(run.cfg)) + "\n")
    required = Path(__file__).resolve().parent.parent / "requirements.txt"
    lines = required.read_text().splitlines() if required.exists() else []
    names = [match[0] for line in lines if (match := re.match(r"[A-Za-z0-9_.-]+", line))]
    facts = {
        "config": str(cfg_file),
        "command": sys.argv,
        "seed": run.seed,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(run.device),
        "precision": run.accelerator.mixed_precision,
        "threads": torch.get_num_threads(),
        "packages": {name: metadata.version(name) for name in names if _installed(name)},
    }
    (run.folder / "env.json").write_text(json.dumps(facts, indent=1) + "\n")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def git_commit() -> str | None:
    """Return the commit of this code, `-dirty` if changed since; None outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
