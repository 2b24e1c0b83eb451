"""What a run is made of, written beside it: config, code, packages, hardware, data, seed, command line."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from . import config as configs
from .files import file_hash, replacing
from .learn.run import Run

CONFIG, SHOWN, ENVIRONMENT = "config.json", "config.txt", "env.json"
LONGEST_DIFF = 1_000_000  # characters
BLOCK, BLOCKS = 1 << 20, 64  # bytes and number of what is read of a large file


def write_description(run: Run, folder: Path, facts: dict[str, Any]) -> None:
    """Write `config.json` (resolved), `config.txt` (a leaf per line) and `env.json` into the run folder.

    Args:
        run: about to begin.
        folder: where it writes.
        facts: what only the command knows, such as the config's file; see `environment`.
    """
    described = environment(run) | facts
    for name, text in (
        (SHOWN, "\n".join(configs.show(run.cfg))),
        (ENVIRONMENT, json.dumps(described, indent=1)),
        (CONFIG, json.dumps(run.cfg, indent=1)),  # last: with it, the description is whole
    ):
        with replacing(folder / name) as temporary:
            temporary.write_text(text + "\n")


def add_resumption(run: Run, folder: Path) -> None:
    """Add to `env.json` that, where, by what code and under which changes of its config a run is taken up again."""
    file = folder / ENVIRONMENT
    described = json.loads(file.read_text()) if file.exists() else {}
    now = environment(run)
    changed = {key: value for key, value in now.items() if value != described.get(key)}
    if (folder / CONFIG).exists():  # which stays that of the first step
        before = configs.DEFAULTS | json.loads((folder / CONFIG).read_text())
        changed |= {"config_diff": difference} if (difference := configs.diff(before, run.cfg)) else {}
    described.setdefault("resumed", []).append({"step": run.step, **changed})
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(described, indent=1) + "\n")


def environment(run: Run) -> dict[str, Any]:
    """Return code, packages, hardware and settings of this process."""
    return {
        "command": sys.argv,
        "seed": run.seed,
        "git_commit": git_commit(),
        "git_diff": git_diff(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages(),
        "hardware": hardware(),
        "device": str(run.device),
        "precision": run.accelerator.mixed_precision,
        "processes": run.processes.count,
        "threads": torch.get_num_threads(),
    }


def packages() -> dict[str, str]:
    """Return the version of every installed distribution."""
    found = {each.metadata["Name"]: each.version for each in metadata.distributions() if each.metadata["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def hardware() -> dict[str, Any]:
    """Return what the machine is: processor, cores, memory in GiB, GPUs with their driver's CUDA version."""
    facts: dict[str, Any] = {"processor": processor(), "cores": os.cpu_count()}
    if hasattr(os, "sysconf"):
        facts["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    if torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        facts["cuda"], facts["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
    return facts


def processor() -> str:
    """Return the processor's name."""
    file = Path("/proc/cpuinfo")
    if file.exists():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def data_checksums(cfg: dict, data_dir: Path) -> dict[str, dict[str, Any]]:
    """Return, per split, its file's size in bytes and `data_checksum`."""
    files = {split: data_dir / cfg["dataset"][split]["file"] for split in ("train", "eval")}
    return {
        split: {"file": cfg["dataset"][split]["file"], "bytes": file.stat().st_size, "sha256": data_checksum(file)}
        for split, file in files.items()
    }


def data_checksum(file: Path) -> str:
    """Return the SHA-256 of a file; of more than 64 MiB, that of 64 blocks of 1 MiB spread evenly over it.

    Which takes under a second for a file of 100 GB, and tells data that were made anew or cut from the same data.
    """
    size = file.stat().st_size
    if size <= BLOCK * BLOCKS:
        return file_hash(file)
    found = hashlib.sha256()
    with file.open("rb") as opened:
        for number in range(BLOCKS):
            opened.seek((size - BLOCK) * number // (BLOCKS - 1))
            found.update(opened.read(BLOCK))
    return found.hexdigest()


def git_commit() -> str | None:
    """Return the commit of this code, `-dirty` if changed since; None outside a git checkout."""
    return _git("describe", "--always", "--dirty", "--abbrev=40")


def git_diff() -> str | None:
    """Return how this code differs from its commit, cut where it is very long; None outside a git checkout."""
    text = _git("diff", "HEAD")
    if text is None or len(text) <= LONGEST_DIFF:
        return text
    whole = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[:LONGEST_DIFF]}\n... cut; sha256 of all {len(text)} characters: {whole}"


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
