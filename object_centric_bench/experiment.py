"""From a config to a run: the one place that knows data, models and learning alike."""

import inspect
import logging
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from . import config as configs
from . import datum, learn, model  # noqa: F401, importing them registers their classes
from .datum.dataset import Dataset
from .datum.feature import WithFeature
from .datum.loader import batches, eval_batches
from .learn.loop import Run
from .learn.optimizer import freeze, parameter_groups
from .model.temporal import per_frame
from .registry import ConfigError, build, faults, suggest

log = logging.getLogger(__name__)

REQUIRED = {"dataset", "model", "loss", "optimizer", "total_steps", "eval_every"}
DATASET = {"train", "eval", "batch_transforms", "batch_size", "eval_batch_size", "num_workers"}
PRECISIONS = ("auto", "no", "bf16", "fp16")
RUNTIME = {"dataset.train": ("data_dir",), "dataset.eval": ("data_dir",), "optimizer": ("params",)}


@dataclass
class Settings:
    """What the command line decides about a run.

    Attributes:
        data_dir: folder that dataset files are relative to.
        save_dir: folder of all runs.
        seed: fixes initial weights, order and augmentation of the data, and all noise.
        device: `auto`, `cpu` or a CUDA device.
    """

    data_dir: Path
    save_dir: Path
    seed: int = 42
    device: str = "auto"

    def folder(self, cfg_file: str | Path) -> Path:
        """Return where the run of a config file writes."""
        return self.save_dir / Path(cfg_file).name.removesuffix(".py") / str(self.seed)


def complete(cfg: dict) -> dict:
    """Return the config with defaults filled in, after checking all of it.

    Raises:
        ConfigError: names every fault at once: unknown sections, classes and arguments, missing ones, wrong types.
    """
    found = [
        f"{key}: unknown section; {suggest(key, REQUIRED | configs.DEFAULTS.keys())}"
        for key in cfg.keys() - REQUIRED - configs.DEFAULTS.keys()
    ]
    found += [f"{key}: missing" for key in REQUIRED - cfg.keys()]
    cfg = configs.DEFAULTS | cfg
    dataset = cfg.get("dataset", {})
    found += [f"dataset.{key}: unknown; {suggest(key, DATASET)}" for key in dataset.keys() - DATASET]
    found += [f"dataset.{key}: missing" for key in DATASET - dataset.keys()]
    found += faults(cfg, "", RUNTIME)
    for key in ("total_steps", "eval_every", "metric_every"):
        if key in cfg and not (type(cfg[key]) is int and cfg[key] > 0):
            found.append(f"{key}: a number of steps, 1 or more, not {cfg[key]!r}")
    for key in ("batch_size", "eval_batch_size"):
        if key in dataset and not (type(dataset[key]) is int and dataset[key] > 0):
            found.append(f"dataset.{key}: a number of samples, 1 or more, not {dataset[key]!r}")
    if cfg["precision"] not in PRECISIONS:
        found.append(f"precision: {cfg['precision']!r}; {suggest(str(cfg['precision']), PRECISIONS)}")
    order = cfg["grad_norm_type"]
    if order != "inf" and not (type(order) in (int, float) and order > 0):
        found.append(f"grad_norm_type: the order of a norm, above 0, or 'inf', not {order!r}")
    if found:
        raise ConfigError("\n".join(sorted(found)))
    return cfg


def make_accelerator(device: str, precision: str) -> Accelerator:
    """Return the engine for device and mixed precision.

    `auto` precision is fp16 with gradient scaling on CUDA, bf16 on CPUs with native bf16 instructions, else none.

    Raises:
        ConfigError: the device is not there, or cannot do that precision.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {device!r}: use auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this PyTorch finds no CUDA device; use --device cpu")
    cpu = device == "cpu" or not torch.cuda.is_available()
    if precision == "auto":
        precision = ("bf16" if native_bf16() else "no") if cpu else "fp16"
    if cpu and precision == "fp16":
        raise ConfigError("precision: fp16 needs a CUDA device; use auto, bf16 or no")
    AcceleratorState._reset_state(True)  # a second run in this process may use another precision
    return Accelerator(mixed_precision=precision, cpu=cpu)


def native_bf16() -> bool:
    """Tell whether this CPU multiplies bf16 in hardware (AVX512-BF16 or AMX); emulated bf16 is slower than float32."""
    probes = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(probe() for probe in probes if probe is not None)


def seed_everything(seed: int) -> None:
    """Seed the global generators; on CUDA also ask for deterministic kernels where there are any."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.use_deterministic_algorithms(True, warn_only=True)


def build_run(cfg: dict, settings: Settings, folder: Path | None, features: dict | None = None) -> Run:
    """Build data, model, losses, optimizer and callbacks of a completed config.

    Args:
        cfg: from `complete`.
        settings: of the command line.
        folder: where the run writes; None for evaluation only.
        features: backbone features kept by earlier runs of this process, see `cached`.

    Raises:
        ConfigError, DataError, WeightsError: what cannot be built, and why.
    """
    accelerator = make_accelerator(settings.device, cfg["precision"])
    seed_everything(settings.seed)
    section = cfg["dataset"]
    data = {split: build(section[split], f"dataset.{split}", data_dir=settings.data_dir) for split in ("train", "eval")}
    network = build(cfg["model"], "model")
    require_keys(network, data)
    freeze(network, cfg["freeze"])
    groups = parameter_groups(network, cfg["parameter_groups"], cfg["optimizer"].get("lr"))
    network.to(accelerator.device)
    optimizer = build(cfg["optimizer"], "optimizer", params=groups)
    transforms = build(section["batch_transforms"], "dataset.batch_transforms")
    if cfg["cache_feature"]:
        for split in data:
            with accelerator.autocast():
                data[split] = cached(data[split], cfg, split, network, transforms, features)
    inputs = tuple(inspect.signature(network.forward).parameters)  # before Accelerate wraps it
    network, optimizer = accelerator.prepare(network, optimizer)
    workers, pin = section["num_workers"], accelerator.device.type == "cuda"
    run = Run(
        model=network,
        loss=build(cfg["loss"], "loss"),
        metric=build(cfg["metric"], "metric"),
        optimizer=optimizer,
        accelerator=accelerator,
        callbacks=build(cfg["callback"], "callback"),
        batch_transforms=transforms,
        train_batches=lambda step: batches(
            data["train"],
            section["batch_size"],
            seed=settings.seed,
            start_step=step,
            total_steps=cfg["total_steps"],
            num_workers=workers,
            pin_memory=pin,
        ),
        eval_batches=lambda: eval_batches(
            data["eval"], section["eval_batch_size"], num_workers=workers, pin_memory=pin
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
        inputs=inputs,
        folder=folder,
        grad_norm_type=float(cfg["grad_norm_type"]),
    )
    for path, node in scheduled(cfg["schedule"]):
        run.setters[path] = (setter(run, path), build(node, f"schedule.{path}"))
    return run


def require_keys(network: nn.Module, data: dict[str, Dataset]) -> None:
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


def scheduled(node: dict, path: str = "") -> Iterator[tuple[str, dict]]:
    """Yield (path of what is driven, config of its schedule) of the `schedule` section."""
    for key, child in node.items():
        here = f"{path}.{key}" if path else key
        if not isinstance(child, dict):
            raise ConfigError(f"schedule.{here}: a schedule is a dict with a type, not {child!r}")
        if "type" in child:
            yield here, child
        else:
            yield from scheduled(child, here)


def setter(run: Run, path: str) -> Any:
    """Return the function that sets a scheduled value.

    `optimizer.lr_factor` multiplies the rates that the config gives the optimizer; any other path starts with `model`,
    or with `loss` and the name of a term, and leads to a plain number inside it.

    Raises:
        ConfigError: the path leads nowhere, or to something that is not a number.
    """
    if path == "optimizer.lr_factor":
        base = [group["lr"] for group in run.optimizer.param_groups]

        def scale_rates(factor: float) -> None:
            for group, rate in zip(run.optimizer.param_groups, base, strict=True):
                group["lr"] = rate * factor

        return scale_rates
    first, *steps = path.split(".")
    if first == "loss" and len(steps) > 1:
        owner = run.loss.get(steps.pop(0))
    elif first == "model" and steps:
        owner = run.accelerator.unwrap_model(run.model)
    else:
        known = "'optimizer.lr_factor' or a number inside 'model' or a term of 'loss'"
        raise ConfigError(f"schedule.{path}: a schedule drives {known}")
    for step in steps[:-1]:
        owner = getattr(owner, step, None)
    if not isinstance(getattr(owner, steps[-1], None), (int, float)):
        numbers = [k for k, v in vars(owner).items() if isinstance(v, float)] if owner is not None else []
        raise ConfigError(f"schedule.{path}: no number of this name in the {first}; {suggest(steps[-1], numbers)}")
    return lambda value: setattr(owner, steps[-1], value)


def cached(
    dataset: Dataset, cfg: dict, split: str, network: nn.Module, transforms: list, known: dict | None
) -> WithFeature:
    """Return the dataset with the frozen backbone's features of every image or video, computed once.

    Raises:
        ConfigError: the dataset augments at random or draws clips, or the backbone trains, so that features change.
    """
    choices = [*dataset.transforms, getattr(dataset, "clip", None)]
    drawn = [type(choice).__name__ for choice in choices if choice is not None and choice.is_random]
    if drawn:
        raise ConfigError(f"cache_feature: dataset.{split} augments at random ({', '.join(drawn)}); set it to False")
    if any(parameter.requires_grad for parameter in network.backbone.parameters()):
        raise ConfigError("cache_feature: the backbone is not frozen; add 'backbone\\..*' to freeze or set it to False")
    section = cfg["dataset"]
    key = configs.fingerprint({"data": picture_only(section[split]), "backbone": cfg["model"]["backbone"]})
    known = {} if known is None else known
    if key not in known:
        device = next(network.parameters()).device
        network.backbone.eval()
        parts: list[Tensor] = []
        with torch.no_grad():
            for batch in eval_batches(dataset, section["eval_batch_size"], num_workers=section["num_workers"]):
                batch = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
                for transform in transforms:
                    batch = transform(batch, None)
                if "video" in batch:
                    parts.append(per_frame(network.backbone, batch["video"]).cpu())
                else:
                    parts.append(network.backbone(batch["image"]).cpu())
        known[key] = torch.cat(parts)
        log.info("kept %s features of dataset.%s, %s", len(dataset), split, tuple(known[key].shape[1:]))
    return WithFeature(dataset, known[key])


def picture_only(split: dict) -> dict:
    """Return what of a dataset's config decides how its images or videos look: stages may read other keys beside."""
    keys = [key for key in ("image", "video") if key in split["keys"]]
    transforms = [t | {"keys": keys} for t in split["transforms"] if not set(keys).isdisjoint(t["keys"])]
    return split | {"keys": keys, "transforms": transforms}
