"""From a config to a run: the one place that knows data, models and learning alike."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from . import config as configs
from . import datum, learn, model  # noqa: F401, importing them registers their classes
from .cached import CACHE_DTYPES, attach
from .datum.dataset import Dataset
from .datum.labels import Split
from .datum.loader import batches, eval_batches, part
from .drive import scheduled, setter
from .engine import PRECISIONS, keep_buffers, make_accelerator, prepare, seed_everything
from .evaluation import build_labelled, choose, protocol_faults
from .learn.gather import Processes
from .learn.optimizer import freeze, parameter_groups, require_stated
from .learn.protocol import Plan
from .learn.run import Run
from .model.compilation import compile_parts
from .registry import ConfigError, build, faults, suggest

REQUIRED = {"dataset", "model", "loss", "optimizer", "total_steps", "eval_every"}
OPTIONAL = {"protocol"}  # names of evaluation protocols; see `evaluation.choose`
DATASET = {"train", "eval", "batch_transforms", "batch_size", "eval_batch_size", "num_workers"}
RUNTIME = {"dataset.train": ("data_dir",), "dataset.eval": ("data_dir",), "optimizer": ("params",)}


@dataclass
class Settings:
    """What the command line decides about a run.

    Attributes:
        data_dir: folder that dataset files are relative to.
        save_dir: folder of all runs.
        seed: fixes initial weights, order and augmentation of the data, and all noise.
        device: `auto`, `cpu` or a CUDA device.
        cache_dir: what frozen parts computed, for all runs; None means `cache` in `save_dir`.
    """

    data_dir: Path
    save_dir: Path
    seed: int = 42
    device: str = "auto"
    cache_dir: Path | None = None

    @property
    def cache_folder(self) -> Path:
        """Where frozen parts' outputs are kept."""
        return self.cache_dir or self.save_dir / "cache"

    def folder(self, cfg_file: str | Path) -> Path:
        """Return where the run of a config file writes."""
        return self.save_dir / Path(cfg_file).name.removesuffix(".py") / str(self.seed)


def complete(cfg: dict) -> dict:
    """Return the config with defaults filled in, after checking all of it.

    Raises:
        ConfigError: names every fault at once: unknown sections, classes and arguments, missing ones, wrong types.
    """
    found = [
        f"{key}: unknown section; {suggest(key, REQUIRED | configs.DEFAULTS.keys() | OPTIONAL)}"
        for key in cfg.keys() - REQUIRED - configs.DEFAULTS.keys() - OPTIONAL
    ]
    found += [f"{key}: missing" for key in REQUIRED - cfg.keys()]
    cfg = configs.DEFAULTS | cfg
    dataset = cfg.get("dataset", {})
    found += [f"dataset.{key}: unknown; {suggest(key, DATASET)}" for key in dataset.keys() - DATASET]
    found += [f"dataset.{key}: missing" for key in DATASET - dataset.keys()]
    found += faults({key: node for key, node in cfg.items() if key != "protocol"}, "", RUNTIME)
    found += protocol_faults(cfg)
    for key in ("total_steps", "eval_every", "metric_every"):
        if key in cfg and not (type(cfg[key]) is int and cfg[key] > 0):
            found.append(f"{key}: a number of steps, 1 or more, not {cfg[key]!r}")
    for key in ("batch_size", "eval_batch_size"):
        if key in dataset and not (type(dataset[key]) is int and dataset[key] > 0):
            found.append(f"dataset.{key}: a number of samples, 1 or more, not {dataset[key]!r}")
    if cfg["precision"] not in PRECISIONS:
        found.append(f"precision: {cfg['precision']!r}; {suggest(str(cfg['precision']), PRECISIONS)}")
    if cfg["cache_dtype"] not in CACHE_DTYPES:
        found.append(f"cache_dtype: {cfg['cache_dtype']!r}; {suggest(str(cfg['cache_dtype']), CACHE_DTYPES)}")
    if type(cfg["cache_gigabytes"]) not in (int, float) or not cfg["cache_gigabytes"] > 0:
        found.append(f"cache_gigabytes: a number above 0, not {cfg['cache_gigabytes']!r}")
    for key in ("cache_feature", "cache_eval", "compile", "deterministic"):
        if type(cfg[key]) is not bool:
            found.append(f"{key}: True or False, not {cfg[key]!r}")
    found += _faults_of_steps(cfg)
    order = cfg["grad_norm_type"]
    if order != "inf" and not (type(order) in (int, float) and order > 0):
        found.append(f"grad_norm_type: the order of a norm, above 0, or 'inf', not {order!r}")
    if found:
        raise ConfigError("\n".join(sorted(found)))
    return cfg


def _faults_of_steps(cfg: dict) -> list[str]:
    """Return what is wrong with how a batch goes through the model."""
    found = [
        f"{key}: a whole number, 1 or more, not {cfg[key]!r}"
        for key in ("accumulate", "max_not_finite")
        if not (type(cfg[key]) is int and cfg[key] > 0)
    ]
    if type(cfg["find_unused_parameters"]) is not bool:
        found.append(f"find_unused_parameters: True or False, not {cfg['find_unused_parameters']!r}")
    size = cfg["micro_batch"]
    if size not in (None, "auto") and not (type(size) is int and size > 0):
        found.append(f"micro_batch: a number of samples, 1 or more, 'auto' or None, not {size!r}")
    if size is not None and cfg["accumulate"] != 1:
        found.append("accumulate, micro_batch: both say into how many pieces a batch is cut; set one of them")
    return found


def build_run(
    cfg: dict,
    settings: Settings,
    folder: Path | None,
    plans: Sequence[Plan] | None = None,
    watch: Callable[[Dataset], Dataset] = lambda dataset: dataset,
) -> Run:
    """Build data, model, losses, optimizer and callbacks of a completed config.

    Args:
        cfg: from `complete`.
        settings: of the command line.
        folder: where the run writes; None for evaluation only.
        watch: puts measuring into the train split, see `datum.timing`.
        plans: protocols whose labels the evaluation split is to deliver; None = those that the config names.

    Raises:
        ConfigError, DataError, WeightsError: what cannot be built, and why.
    """
    accelerator = make_accelerator(settings.device, cfg["precision"], cfg["find_unused_parameters"])
    seed_everything(settings.seed, cfg["deterministic"])
    section = cfg["dataset"]
    plans = choose(cfg) if plans is None else plans
    makers: dict[str, Callable[[dict], Split]] = {
        "train": lambda split: watch(build(split, "dataset.train", data_dir=settings.data_dir)),
        "eval": lambda split: build_labelled(split, plans, settings.data_dir),
    }
    data = {split: make(section[split]) for split, make in makers.items()}
    network = build(cfg["model"], "model")
    require_keys(network, data)
    freeze(network, cfg["freeze"])
    require_stated(network, cfg["freeze"])
    groups = parameter_groups(network, cfg["parameter_groups"], cfg["optimizer"].get("lr"))
    network.to(accelerator.device)
    if cfg["compile"]:
        compile_parts(network)
    optimizer = build(cfg["optimizer"], "optimizer", params=groups)
    transforms = build(section["batch_transforms"], "dataset.batch_transforms")

    def on_device(loss: Any) -> Any:
        return loss.to(accelerator.device) if isinstance(loss, nn.Module) else loss  # LPIPS has a network

    inputs = tuple(inspect.signature(network.forward).parameters)  # before Accelerate wraps it
    processes = Processes.started()
    if section["batch_size"] < processes.count:
        size = section["batch_size"]
        raise ConfigError(
            f"dataset.batch_size: {size} samples over all of {processes.count} processes; one each at least"
        )
    keep_buffers(network)
    network, optimizer = prepare(accelerator, network, optimizer)
    samples = len(data["train"])
    workers, pin = section["num_workers"], accelerator.device.type == "cuda"
    run = Run(
        model=network,
        loss={name: on_device(term) for name, term in build(cfg["loss"], "loss").items()},
        metric=build(cfg["metric"], "metric"),
        optimizer=optimizer,
        accelerator=accelerator,
        callbacks=build(cfg["callback"], "callback"),
        batch_transforms=transforms,
        train_batches=lambda step, dataset=data["train"]: batches(
            dataset,
            section["batch_size"],
            seed=settings.seed,
            start_step=step,
            total_steps=cfg["total_steps"],
            num_workers=workers,
            pin_memory=pin,
            rank=processes.rank,
            processes=processes.count,
        ),
        eval_batches=lambda dataset=data["eval"]: eval_batches(
            dataset,
            section["eval_batch_size"],
            num_workers=workers,
            pin_memory=pin,
            rank=processes.rank,
            processes=processes.count,
        ),
        setters={},
        total_steps=cfg["total_steps"],
        eval_every=cfg["eval_every"],
        metric_every=cfg["metric_every"],
        max_grad_norm=cfg["max_grad_norm"],
        seed=settings.seed,
        cfg=cfg,
        eval_length=-(-len(data["eval"]) // section["eval_batch_size"]),
        source_id=data["eval"].source_id,
        picture=lambda index: picture(data["eval"], index),
        inputs=inputs,
        folder=folder if processes.main else None,
        grad_norm_type=float(cfg["grad_norm_type"]),
        processes=processes,
        share=lambda step: part(samples, section["batch_size"], step, processes.rank, processes.count),
        accumulate=cfg["accumulate"],
        micro_batch=cfg["micro_batch"],
        max_not_finite=cfg["max_not_finite"],
    )
    attach(run, data, makers, settings)
    for path, node in scheduled(cfg["schedule"]):
        run.setters[path] = (setter(run, path), build(node, f"schedule.{path}"))
    return run


def require_keys(network: nn.Module, data: dict[str, Split]) -> None:
    """Raise `ConfigError` if a split does not read what the model needs, or gives videos for images or the reverse."""
    found = [
        f"dataset.{split}.keys: {type(network).__name__} needs {key!r}, but only {', '.join(dataset.keys)} are read"
        for split, dataset in data.items()
        for key in getattr(network, "needs", ())
        if key not in dataset.keys
    ]
    takes = inspect.signature(network.forward).parameters.keys() & {"image", "video"}
    found += [
        f"dataset.{split}.keys: {type(network).__name__} takes {' or '.join(sorted(takes))}, the dataset gives "
        f"{', '.join(dataset.keys)}"
        for split, dataset in data.items()
        if takes and not takes & set(dataset.keys)
    ]
    if found:
        raise ConfigError("\n".join(found))


def picture(dataset: Split, index: int) -> Tensor:
    """Return the image (3 h w) or video (t 3 h w) uint8 of a sample, transformed."""
    sample = dataset.sample(index, np.random.default_rng(0))
    return next(sample[key] for key in ("image", "video") if key in sample)
