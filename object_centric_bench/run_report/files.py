"""What a run left behind, read for its report; what is missing is empty, since a run may be young or old."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import DEFAULTS
from ..registry import ConfigError


@dataclass
class RunFiles:
    """The files of a run folder.

    Attributes:
        folder: of the run.
        config: resolved.
        environment: `env.json`.
        train: rows of `log.jsonl` of training steps.
        eval: rows of its evaluations.
        timing: rows of `timing.jsonl`.
        result: `eval/eval.json`, {} if the run was not scored; its `protocols` are also those that `eval.py` scored the
            same weights on the same data under, of `best/eval/eval.json`.
        profile: table of `train.py --profile`, "" if the config was not profiled with this seed.
    """

    folder: Path
    config: dict
    environment: dict = field(default_factory=dict)
    train: list[dict] = field(default_factory=list)
    eval: list[dict] = field(default_factory=list)
    timing: list[dict] = field(default_factory=list)
    result: dict = field(default_factory=dict)
    profile: str = ""

    @property
    def name(self) -> str:
        """Config and seed, as in the folder's path."""
        return f"{self.folder.parent.name}, seed {self.environment.get('seed', self.folder.name)}"


def read(folder: Path) -> RunFiles:
    """Return the files of a run folder.

    Raises:
        ConfigError: it is no run folder, or a file in it is damaged.
    """
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} is no run folder: it has no config.json. One is save/<config>/<seed>")
    rows = lines(folder / "log.jsonl")
    profile = folder.with_name(f"{folder.name}-profile") / "profile.txt"
    return RunFiles(
        folder,
        config=DEFAULTS | document(folder / "config.json"),
        environment=document(folder / "env.json"),
        train=[row for row in rows if row.get("split") == "train"],
        eval=[row for row in rows if row.get("split") == "eval"],
        timing=lines(folder / "timing.jsonl"),
        result=scored(folder),
        profile=profile.read_text() if profile.is_file() else "",
    )


def scored(folder: Path) -> dict:
    """Return the scores of a run: those that training ended with, and what `eval.py` added since.

    Raises:
        ConfigError: a file of them is damaged.
    """
    own, later = (document(path / "eval" / "eval.json") for path in (folder, folder / "best"))
    if not own:
        return later
    same = [(each.get("checkpoint_sha256"), each.get("config", {}).get("dataset")) for each in (own, later)]
    if later and same[0] == same[1]:
        own["protocols"] = {**own.get("protocols", {}), **later.get("protocols", {})}
    return own


def document(file: Path) -> dict:
    """Return a JSON file, {} if there is none.

    Raises:
        ConfigError: it is damaged.
    """
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ConfigError(f"{file} is no valid JSON ({error})") from error


def lines(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines; a last line that a crash cut is left out."""
    found = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
