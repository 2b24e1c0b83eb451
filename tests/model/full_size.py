"""The models of all config files at full size, on the meta device: names and shapes, no numbers."""

import json

import torch

from object_centric_bench import config, experiment
from object_centric_bench.learn.optimizer import freeze
from object_centric_bench.registry import build
from tests.conftest import REPOSITORY

FILES = {path.stem: path for path in REPOSITORY.glob("config-*/[!_]*.py")}


def load_full_size(name, *overrides):
    """Return the checked config of a file, by its stem, that takes random weights."""
    return experiment.complete(config.load(FILES[name], [*overrides, "pretrained=False"]))


def full_size(name, *overrides):
    """Build the model of a config file, by its stem, frozen as it says."""
    cfg = load_full_size(name, *overrides)
    with torch.device("meta"):
        model = build(cfg["model"], "model")
    freeze(model, cfg["freeze"])
    return model


def published_state(golden, name):
    """Return a published config's checkpoint, names and shapes only; `name` starts with the repository's folder."""
    table = json.loads((golden / "keys" / f"{name}.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, (shape, _) in table.items()}
