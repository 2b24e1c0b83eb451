"""Which runs a grid needs, which of them are there, and in what order the others are made."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import config
from ..registry import ConfigError


@dataclass(frozen=True)
class Job:
    """One run: a config, trained with a seed and scored.

    Attributes:
        cfg_file: the config.
        seed: of the run.
        overrides: `key=value` texts.
        scored: whether scores are wanted of it; of a first stage only its checkpoint is.
        needs: the run that it starts from.
    """

    cfg_file: Path
    seed: int
    overrides: tuple[str, ...] = ()
    scored: bool = True
    needs: "Job | None" = None

    @property
    def name(self) -> str:
        """The config's name, as in paths."""
        return self.cfg_file.name.removesuffix(".py")

    def folder(self, save_dir: Path) -> Path:
        """Return where the run writes."""
        return save_dir / self.name / str(self.seed)

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


def plan(cfg_files: Iterable[Path], seeds: Iterable[int], overrides: Iterable[str]) -> list[Job]:
    """Return the jobs of a grid, each after the one it starts from, and each once.

    Args:
        cfg_files: configs to compare.
        seeds: each config is run with each.
        overrides: `key=value` texts for these configs; what a first stage must share follows from them.

    Raises:
        ConfigError: a config cannot be loaded, or two have the same name and so the same folder.
    """
    files = list(dict.fromkeys(Path(file) for file in cfg_files))
    names = [file.name for file in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"several configs are called {', '.join(twice)}: their runs would share a folder")
    jobs: dict[tuple, Job] = {}
    for seed in seeds:
        for file in files:
            _add(jobs, file, seed, tuple(overrides), scored=True)
    return list(jobs.values())


def _add(jobs: dict[tuple, Job], file: Path, seed: int, overrides: tuple[str, ...], scored: bool) -> Job:
    key = (file.resolve(), seed, overrides)
    if key not in jobs:
        pretrain = config.load(file, list(overrides))["pretrain"]
        needs = None
        if pretrain is not None:
            knobs = tuple(f"{name}={value!r}" for name, value in pretrain.get("knobs", {}).items())
            needs = _add(jobs, file.parent / pretrain["config"], seed, knobs, scored=False)
        jobs[key] = Job(file, seed, overrides, scored, needs)
    elif scored and not jobs[key].scored:
        jobs[key] = Job(file, seed, overrides, True, jobs[key].needs)
    return jobs[key]


def finished(job: Job, save_dir: Path) -> bool:
    """Tell whether a run was trained to its end and, if wanted, scored.

    Raises:
        ConfigError: a run of that name and seed is there, but of another config; the difference is shown.
    """
    folder = job.folder(save_dir)
    described = folder / "config.json"
    if not described.is_file():
        return False
    difference = config.diff(
        config.DEFAULTS | _read(described), config.DEFAULTS | config.load(job.cfg_file, list(job.overrides))
    )
    if difference:
        raise ConfigError(
            "\n  ".join([f"{folder} is a run of another config:", *difference[:12]])
            + "\nMove it away, or give another --save_dir"
        )
    if not job.scored:
        return (folder / "best").is_dir() and _last_step(folder) >= _read(described)["total_steps"]
    return (folder / "eval" / "eval.json").is_file()


def _last_step(folder: Path) -> int:
    """Return the step of the last line of a run's log, 0 if it has none."""
    log = folder / "log.jsonl"
    lines = log.read_text().splitlines() if log.is_file() else []
    return json.loads(lines[-1])["step"] if lines else 0


def _read(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ConfigError(f"{file} is no valid JSON ({error}); move its run away") from error
