"""Takes the first steps of an earlier run again and compares their losses with those it wrote."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import config as configs
from .console import bar
from .experiment import Settings, build_run, complete
from .files import file_hash
from .learn import checkpoint
from .learn.log import LOSSES, Log, add_processes, numbers_of_step
from .learn.loop import train
from .learn.run import Run
from .learn.save import Save
from .provenance import CONFIG, ENVIRONMENT, data_checksums, environment
from .registry import ConfigError
from .restore import load_pretrained

COMPARED = ("git_commit", "git_diff", "python", "platform", "packages", "hardware", "precision", "processes", "threads")


@dataclass
class Outcome:
    """What repeating the first steps of a run showed.

    Attributes:
        steps: that were compared.
        first: the first step of which a number differs; None if all are equal to the bit of float32.
        recorded, repeated: the numbers of that step, by name.
        largest: largest relative difference of any number of any step.
        changed: what is not as it was: parts of the environment, data.
    """

    steps: int = 0
    first: int | None = None
    recorded: dict[str, float] = field(default_factory=dict)
    repeated: dict[str, float] = field(default_factory=dict)
    largest: float = 0.0
    changed: list[str] = field(default_factory=list)

    def add(self, step: int, recorded: dict[str, float], repeated: dict[str, float]) -> None:
        """Take in a step."""
        self.steps += 1
        repeated = {name: float(f"{value:.9g}") for name, value in repeated.items()}  # as the file has them
        same = all(str(value) == str(repeated[name]) for name, value in recorded.items())  # NaN is the same as NaN
        if self.first is None and not same:
            self.first, self.recorded, self.repeated = step, recorded, repeated
        for name, value in recorded.items():
            scale = max(abs(value), abs(repeated[name]))
            if scale > 0:
                self.largest = max(self.largest, abs(value - repeated[name]) / scale)

    def lines(self) -> list[str]:
        """Return the outcome in words."""
        found = [f"not as it was: {each}" for each in self.changed]
        if self.first is None:
            return [*found, f"all losses of {self.steps} steps are equal to the bit"]
        found.append(f"the first step that differs is step {self.first}:")
        found += [f"  {name}: was {value:.9g}, is {self.repeated[name]:.9g}" for name, value in self.recorded.items()]
        return [*found, f"largest relative difference in {self.steps} steps: {self.largest:.3g}"]


def reproduce(folder: Path, steps: int, data_dir: Path | None, device: str) -> Outcome:
    """Take the first steps of a run again, in memory only.

    Args:
        folder: of the run.
        steps: how many at most.
        data_dir: where the datasets are; None = where they were.
        device: as in `Settings`; auto = the kind on which it ran.

    Raises:
        ConfigError: the folder lacks what describes the run, or what it started from is gone or another.
    """
    described, recorded = describe(folder), read_losses(folder)
    cfg = complete(configs.DEFAULTS | json.loads((folder / CONFIG).read_text()))
    device = described["device"].partition(":")[0] if device == "auto" else device
    settings = Settings(data_dir or Path(described["data_dir"]), folder.parent.parent, described["seed"], device)
    run = build_run(cfg, settings, folder=None)
    if described.get("starts_from"):
        load_pretrained(run, source_of(described["starts_from"]))
    if run.micro_batch == "auto" and (folder / "last").is_dir():
        run.micro_batch = checkpoint.read_state(folder / "last").get("micro_batch", "auto")
    outcome = Outcome(changed=differences(described, run, data_checksums(cfg, settings.data_dir)))
    wanted = min(steps, len(recorded))
    with bar(desc="repeat", total=wanted, unit="step", leave=False) as progress:
        repeated = Repeated(wanted, progress)
        run.callbacks = [each for each in run.callbacks if not isinstance(each, (Log, Save))] + [repeated]
        run.metric, run.eval_every, run.total_steps = [], run.total_steps + 1, run.total_steps + 1
        train(run)
    for step, numbers in enumerate(repeated.numbers):
        outcome.add(step, recorded[step], numbers)
    return outcome


class Repeated:
    """A callback that keeps the numbers of the first steps and moves a bar on, then stops the run."""

    def __init__(self, steps: int, progress: tqdm):
        self.steps, self.progress = steps, progress
        self.numbers: list[dict[str, float]] = []

    def before_train(self, run: Run) -> None:
        """Take no step if none is wanted."""
        run.stop = self.steps == 0

    def after_step(self, run: Run) -> None:
        """Read the step's numbers."""
        (row,) = add_processes(run.processes, [numbers_of_step(run).tolist()])
        self.numbers.append(dict(zip([*run.loss, "grad_norm"], row, strict=True)))
        self.progress.update()
        run.stop = run.step >= self.steps


def describe(folder: Path) -> dict[str, Any]:
    """Return what `env.json` says of a run.

    Raises:
        ConfigError: it or the config is missing, or says too little.
    """
    for name in (CONFIG, ENVIRONMENT, LOSSES):
        if not (folder / name).is_file():
            raise ConfigError(
                f"--reproduce {folder}: it holds no {name}; a run folder such as save/CONFIG/SEED has one"
            )
    described = json.loads((folder / ENVIRONMENT).read_text())
    if missing := [key for key in ("seed", "data_dir", "device") if key not in described]:
        raise ConfigError(f"--reproduce: {folder / ENVIRONMENT} does not say {', '.join(missing)}; an older version's")
    return described


def read_losses(folder: Path) -> list[dict[str, float]]:
    """Return the numbers of every step that a run wrote, by name, from step 0 on."""
    with (folder / LOSSES).open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [{name: value for name, value in row.items() if name != "step"} for row in rows]


def source_of(origin: dict[str, str]) -> Path:
    """Return the checkpoint that a run started from.

    Raises:
        ConfigError: it is gone, or another one lies there.
    """
    file = Path(origin["file"])
    if not file.is_file():
        raise ConfigError(f"--reproduce: the run started from {file}, which is gone")
    if file_hash(file) != origin["sha256"]:
        raise ConfigError(f"--reproduce: the run started from {file}, which has changed since (another sha256)")
    return file


def differences(described: dict[str, Any], run: Run, data: dict[str, Any]) -> list[str]:
    """Return in words what of a run's description does not hold now."""
    now, found = environment(run) | {"data": data}, []
    for key in (*COMPARED, "data"):
        before = described.get(key)
        if before == now[key]:
            continue
        if isinstance(before, dict) and isinstance(now[key], dict):
            names = [name for name in sorted(before.keys() | now[key].keys()) if before.get(name) != now[key].get(name)]
            found += [f"{key} {name}: was {before.get(name)}, is {now[key].get(name)}" for name in names]
        elif key == "git_diff":
            found.append("git_diff: the code has other changes since its commit")
        else:
            found.append(f"{key}: was {before}, is {now[key]}")
    resumed = [each for each in described.get("resumed", []) if "config_diff" in each]
    return found + [f"config: from step {each['step']} on it was another, see env.json" for each in resumed]
