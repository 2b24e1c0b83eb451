"""The loop: train, evaluate, and the six events that callbacks may answer."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .metric import Average
from .optimizer import train_mode

EVENTS = ("before_train", "before_step", "after_forward", "after_step", "after_eval", "after_train")
EVAL_SEED = 0  # of the model's draws while it is evaluated: the same weights score the same in every run


class TrainingStopped(RuntimeError):
    """Training cannot go on; the text says at which step, why, and what is safe on disk."""


@dataclass
class Run:
    """All that one training run consists of; callbacks read and write it.

    Attributes:
        model: the method; `forward` takes batch entries by name and returns a dict.
        loss: name -> callable (batch, output) -> weighted scalar.
        metric: callables (batch, output) -> {name: (value (b,), valid (b,))}.
        batch_transforms: callables (batch, None) -> batch, applied on the device.
        train_batches: step -> iterator of batches from that step on, to the end of the run.
        eval_batches: () -> iterator of the batches of the evaluation split.
        setters: path -> (function that sets a scheduled value, schedule step -> value).
        eval_length: number of batches that `eval_batches` gives.
        source_id: index in the evaluation split -> name of the image at its source.
        inputs: names of the batch entries that the model takes.
        folder: where this run writes, or None to write nothing.
        grad_norm_type: order of the norm that `max_grad_norm` limits, as PyTorch takes it.
        step: optimizer steps done.
        measuring: True while metrics are wanted for the present batch.
        stop: set by a signal; the loop ends before its next step.
        raw: the batch as the loader gave it; `batch` is the same on the device, transformed.
    """

    model: nn.Module
    loss: dict[str, Callable]
    metric: list[Callable]
    optimizer: Any
    accelerator: Any
    callbacks: list[Any]
    batch_transforms: list[Callable]
    train_batches: Callable[[int], Iterable[dict]]
    eval_batches: Callable[[], Iterable[dict]]
    setters: dict[str, tuple[Callable[[float], None], Callable[[int], float]]]
    total_steps: int
    eval_every: int
    metric_every: int
    max_grad_norm: float
    seed: int
    cfg: dict
    eval_length: int
    source_id: Callable[[int], str]
    inputs: tuple[str, ...]
    folder: Path | None = None
    grad_norm_type: float = 2.0
    step: int = 0
    measuring: bool = False
    stop: bool = False
    not_finite: int = 0
    raw: dict = field(default_factory=dict)
    batch: dict = field(default_factory=dict)
    output: dict = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    grad_norm: Tensor | None = None
    result: dict[str, float] = field(default_factory=dict)
    excluded: dict[str, int] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.accelerator.device


def emit(run: Run, event: str) -> None:
    """Call the event's hook of every callback that has one, in config order."""
    for callback in run.callbacks:
        hook = getattr(callback, event, None)
        if hook is not None:
            hook(run)


def apply_schedules(run: Run) -> None:
    """Set every scheduled value to what it is after `run.step` finished steps."""
    for setter, schedule in run.setters.values():
        setter(schedule(run.step))


def forward(run: Run, batch: dict) -> None:
    """Bring a batch to the device, run the model on it; sets `run.batch`, `run.output`, emits `after_forward`."""
    run.raw = batch
    moved = {
        key: value.to(run.device, non_blocking=True) if isinstance(value, Tensor) else value
        for key, value in batch.items()
    }
    for transform in run.batch_transforms:
        moved = transform(moved, None)
    run.batch = moved
    run.output = {}  # what the last batch gave, gigabytes of logits for videos, makes room
    run.output = run.model(**{key: moved[key] for key in run.inputs if key in moved})
    emit(run, "after_forward")


def measure(run: Run) -> None:
    """Fill `run.scores` with the metrics of the present batch."""
    run.scores = {}
    for metric in run.metric:
        run.scores.update(metric(run.batch, run.output))


def train(run: Run) -> None:
    """Advance `run.step` to `run.total_steps`; a restored run continues where it stopped.

    Raises:
        TrainingStopped: the loss is not finite.
    """
    emit(run, "before_train")
    parameters = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    for batch in run.train_batches(run.step):
        if run.stop:
            break
        train_mode(run.model)
        apply_schedules(run)
        run.measuring = bool(run.metric) and run.step % run.metric_every == 0
        emit(run, "before_step")
        forward(run, batch)
        run.losses = {name: loss(run.batch, run.output) for name, loss in run.loss.items()}
        if run.device.type == "cpu":  # reading a loss costs nothing here; elsewhere the log reads it, every some steps
            check_finite(run, {name: float(value.detach()) for name, value in run.losses.items()}, run.step)
        run.optimizer.zero_grad(set_to_none=True)
        run.accelerator.backward(sum(run.losses.values()))
        run.grad_norm = run.accelerator.clip_grad_norm_(parameters, run.max_grad_norm, run.grad_norm_type)
        run.optimizer.step()
        if run.measuring:
            with torch.no_grad():
                measure(run)
        run.step += 1
        emit(run, "after_step")
        if run.step % run.eval_every == 0 or run.step == run.total_steps:
            evaluate(run)
            check_finite(run, {name: run.result[name] for name in run.loss}, run.step)
            emit(run, "after_eval")
    emit(run, "after_train")


def check_finite(run: Run, losses: dict[str, float], step: int) -> None:
    """Stop training at a loss that is not a number.

    fp16 may overflow now and then, which the gradient scaler answers by skipping the step: there, only the twentieth
    such loss in a row stops the run.

    Raises:
        TrainingStopped: with the step, every loss term and the last good checkpoint.
    """
    if all(math.isfinite(value) for value in losses.values()):
        run.not_finite = 0
        return
    run.not_finite += 1
    if run.accelerator.scaler is not None and run.not_finite < 20:
        return
    terms = ", ".join(f"{name} {value:.6g}" for name, value in losses.items())
    good = run.folder / "last" if run.folder else None
    kept = f"last good checkpoint: {good}" if good and good.exists() else "no checkpoint was written yet"
    raise TrainingStopped(
        f"the loss is not finite at step {step}: {terms}; {kept}. "
        "Try a lower optimizer.lr, a lower max_grad_norm, or precision=no"
    )


@torch.no_grad()
def evaluate(run: Run, observe: Callable[[Run], None] | None = None) -> None:
    """Score the model on the evaluation split; sets `run.result` and `run.excluded`.

    Losses average over images, metrics over the images they are defined for. Random draws of the model come from a
    generator of their own, so that evaluating changes neither the training that follows nor, repeated, its own result;
    the run's seed does not count either, which keeps losses with drawn noise (diffusion) comparable between runs.

    Args:
        observe: called after every batch, with `run.batch`, `run.output`, `run.scores` in place.
    """
    run.model.eval()
    run.measuring = True
    average = Average()
    apply_schedules(run)
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(EVAL_SEED)
        for batch in tqdm(run.eval_batches(), "eval", run.eval_length, leave=False, disable=None):  # shown on terminals
            forward(run, batch)
            losses = {name: loss(run.batch, run.output) for name, loss in run.loss.items()}
            size = len(run.batch["index"])
            valid = torch.ones(size, dtype=torch.bool, device=run.device)
            average.update({name: (value.double().expand(size), valid) for name, value in losses.items()})
            measure(run)
            average.update(run.scores)
            if observe is not None:
                observe(run)
    run.result, run.excluded = average.result(), average.excluded()
    run.measuring = False
