"""Some steps are tried: do they work, how long will the run take, what memory and disk will it need?"""

import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ..console import bar
from ..experiment import Settings
from ..learn.health import without_gradient
from ..learn.loop import evaluate
from ..learn.optimizer import train_mode
from ..learn.run import Run, apply_schedules
from ..learn.step import take_step
from .findings import Findings


def check_step(run: Run, cfg: dict, findings: Findings) -> None:
    """Try training steps and an evaluation batch; estimate time and memory of the whole run."""
    findings.head("a step")
    section = cfg["dataset"]
    batches = run.train_batches(0)
    parameters = [parameter for parameter in run.network.parameters() if parameter.requires_grad]
    if not parameters:
        findings.fault("freeze: nothing is left to train")
        return
    run.measuring = False
    batch = next(iter(batches))
    tried = len(batch["index"])

    def step() -> None:
        train_mode(run.model)
        apply_schedules(run)
        take_step(run, batch, parameters)
        norms.append(float(0.0 if run.grad_norm is None else run.grad_norm))  # waits for the device

    norms: list[float] = []
    first, again = (seconds(step) for _ in bar(range(2), "try", unit="step", leave=False))
    losses = {name: float(value) for name, value in run.losses.items()}
    findings.say("losses " + ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
                 + f", gradient norm {norms[-1]:.4g}")  # fmt: skip
    bad = [name for name, value in losses.items() if not np.isfinite(value)]
    if bad:
        findings.fault(f"loss.{bad[0]} is not finite in the first steps")
    idle = without_gradient(run.network)
    if idle:
        findings.warn(
            f"{len(idle)} trained parameters get no gradient: {', '.join(idle[:4])}{' ...' if idle[4:] else ''}"
        )
    per_step = min(first, again) * section["batch_size"] / tried
    small = replace(run, eval_length=1)
    per_eval = seconds(lambda: evaluate(small)) * section["eval_batch_size"] / min(tried, section["eval_batch_size"])
    passes = -(-cfg["total_steps"] // cfg["eval_every"])
    samples = run.eval_length * run.cfg["dataset"]["eval_batch_size"]
    batches_of_eval = -(-samples // section["eval_batch_size"])
    hours = (per_step * cfg["total_steps"] + passes * batches_of_eval * per_eval) / 3600
    findings.say(f"{first:.2f} s the first, {again:.2f} s the second, of {tried} samples")
    findings.say(
        f"whole run, as measured here: {hours:.1f} h ({cfg['total_steps']:,} steps of {section['batch_size']}, "
        f"{passes} evaluations), data loading aside"
    )
    findings.say(f"peak memory: {peak_memory(run.device) / 2**30:.1f} GiB with {tried} samples on {run.device}")


def seconds(function: Callable[[], None]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def peak_memory(device: torch.device) -> int:
    """Return the most bytes used so far: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def check_disk(run: Run, cfg: dict, settings: Settings, findings: Findings) -> None:
    """Check that both checkpoints, and the one being written, fit on the disk; the cache takes what it may."""
    save_dir = settings.save_dir
    weights = sum(tensor.numel() * tensor.element_size() for tensor in run.network.state_dict().values())
    moments = 2 * sum(each.numel() * each.element_size() for each in run.network.parameters() if each.requires_grad)
    needed = 3 * weights + 2 * moments  # best, last, and one under its temporary name
    folder = save_dir
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    findings.head("disk")
    findings.say(f"{needed / 2**30:.2f} GiB for checkpoints, {free / 2**30:.1f} GiB free below {save_dir}")
    if cfg["cache_feature"] or cfg["cache_eval"]:
        findings.say(f"up to {cfg['cache_gigabytes']:g} GB (cache_gigabytes) of all runs' in {settings.cache_folder}")
    if free < needed:
        findings.fault(f"--save_dir {save_dir}: {free / 2**30:.2f} GiB are free, checkpoints need {needed / 2**30:.2f}")
