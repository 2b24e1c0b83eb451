"""What a run starts from: a checkpoint of its own, stage 1, or the authors' published weights."""

import json
import logging
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from . import config as configs
from .console import say
from .learn import checkpoint
from .learn.checkpoint import CheckpointError
from .learn.run import Run
from .learn.save import restore
from .model import published
from .model.weights import WeightsError, mark
from .registry import ConfigError

log = logging.getLogger(__name__)


def load_weights(run: Run, source: Path) -> dict:
    """Load a whole model from a checkpoint (ours, or a published one); return the facts stored with it.

    Raises:
        CheckpointError: it does not fit; names and shapes are listed.
    """
    file = checkpoint.find(source)
    tensors, info = checkpoint.read(file)
    load_into(run.accelerator.unwrap_model(run.model), tensors, file)
    run.step = info.get("step", run.total_steps)
    return info


def load_into(network: nn.Module, tensors: dict[str, Tensor], file: Path) -> None:
    """Load all of a model from the tensors of a checkpoint file, ours or a published one.

    Raises:
        CheckpointError: they do not fit; names and shapes are listed.
    """
    if published.is_published(tensors):
        tensors = renamed(tensors, network, file)
    checkpoint.assign(network, tensors, str(file))


def config_within(file: Path, tensors: dict[str, Tensor], info: dict) -> dict:
    """Return the config that a checkpoint file keeps among its facts.

    Raises:
        ConfigError: there is none, as in published checkpoints; then it says of which method it is.
    """
    if "config" not in info:
        known = (
            f"; it is a published checkpoint of {published.kind_of(tensors)}" if published.is_published(tensors) else ""
        )
        raise ConfigError(f"{file} does not hold its config, which --cfg_file (in Python cfg_file) has to name{known}")
    return info["config"]


def renamed(
    tensors: dict[str, Tensor], network: nn.Module, file: Path, modules: list[str] | None = None
) -> dict[str, Tensor]:
    """Return the tensors of a published checkpoint file, all or those of some modules, under our names.

    Raises:
        CheckpointError: they do not fit; names and shapes are listed.
    """
    try:
        return published.translate(tensors, network, modules)
    except WeightsError as error:
        raise CheckpointError(f"{file}: {error}") from error


def without_pretrained(node: Any) -> Any:
    """Return a config whose parts do not look for pretrained weights, for a model that a checkpoint holds whole."""
    if isinstance(node, list):
        return [without_pretrained(child) for child in node]
    if not isinstance(node, dict):
        return node
    known = {key: without_pretrained(child) for key, child in node.items()}
    return known | ({"pretrained": False, "weights": None} if known.get("pretrained") else {})


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
        tensors = renamed(tensors, network, file, modules)
    loaded = checkpoint.assign(network, tensors, str(file), modules)
    for module in [network] if modules is None else [network.get_submodule(name) for name in modules]:
        mark(module, file)
    say(f"weights of {', '.join(modules) if modules else 'the whole model'} from {file} ({len(loaded)} tensors)")


def resume(run: Run, folder: Path, anyway: bool = False) -> bool:
    """Bring a run back to the `last` checkpoint of its folder; return False if there is none.

    Args:
        run: just built.
        folder: where it wrote; every process of a run reads it.
        anyway: take it up under another config too, after showing the difference.

    Raises:
        ConfigError: that checkpoint was made under another config; the difference is shown.
        CheckpointError: it is damaged, and so is the one before it, or there is none.
    """
    if run.processes.main:
        for name in ("last", "best"):
            checkpoint.recover(folder / name, keep=name == "last")
    run.processes.wait()
    last = folder / "last"
    if not last.is_dir():
        return False
    state, tensors, damage = read_last(last)
    difference = configs.diff(configs.DEFAULTS | json.loads(state["config"]), run.cfg)
    if difference and not anyway:
        choice = (
            "--resume_anyway continues it under the new config, --resume never moves it aside and starts anew, "
            "--save_dir starts anew elsewhere"
        )
        raise ConfigError("\n  ".join([f"{last} was made under another config:", *difference, choice]))
    checkpoint.assign(run.network, tensors, str(last))
    if damage is not None:
        run.processes.wait()  # until all have read it under its present name
        if run.processes.main:
            checkpoint.go_back(last)
        run.processes.wait()
        log.warning("%s. It was moved to %s.damaged, and the run goes on from the checkpoint before it", damage, last)
    mark(run.network, last / checkpoint.WEIGHTS)
    try:
        restore(run, state)
    except (ValueError, KeyError) as error:  # other callbacks or groups of parameters
        raise CheckpointError(f"{last} does not fit this config's optimizer or callbacks: {error}") from error
    if difference:
        say("\n  ".join(["resumed under another config:", *difference]))
    say(f"resumed {last} at step {run.step} of {run.total_steps}")
    return True


def read_last(last: Path) -> tuple[dict, dict[str, Tensor], CheckpointError | None]:
    """Return training state and weights of a checkpoint or, if it is damaged, of the one before it.

    Returns:
        state, tensors, and what is wrong with the checkpoint, None if nothing is.

    Raises:
        CheckpointError: neither can be read.
    """
    try:
        return *_read_whole(last), None
    except CheckpointError as error:
        before = checkpoint.previous(last)
        if not before.is_dir():
            raise CheckpointError(
                f"{error}. There is no earlier one to go on from: --resume never starts anew and moves this run aside"
            ) from error
        try:
            return *_read_whole(before), error
        except CheckpointError as other:
            raise CheckpointError(
                f"{error}; the one before it: {other}. --resume never starts anew and moves this run aside"
            ) from other


def _read_whole(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    return checkpoint.read_state(folder), checkpoint.read(folder / checkpoint.WEIGHTS)[0]
