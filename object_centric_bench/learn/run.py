"""A training run: all that it consists of, its six events, and how a batch goes through the model."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import convert_to_fp32
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..registry import ConfigError
from .gather import Agreement, Processes

EVENTS = ("before_train", "before_step", "after_forward", "after_step", "after_eval", "after_train")


class TrainingStopped(RuntimeError):
    """Training cannot go on; the text says at which step, why, and what is safe on disk."""


def _no_picture(index: int) -> Tensor:
    raise LookupError(f"this run has no pictures, so none of sample {index}")


@dataclass
class Run:
    """All that one training run consists of; callbacks read and write it.

    Attributes:
        model: the method; `forward` takes batch entries by name and returns a dict.
        loss: name -> callable (batch, output) -> weighted scalar, a mean over the batch's samples.
        metric: callables (batch, output) -> {name: (value (b,), valid (b,))}.
        batch_transforms: callables (batch, None) -> batch, applied on the device.
        train_batches: step -> iterator of this process's batches from that step on, to the end of the run.
        eval_batches: () -> iterator of this process's batches of the evaluation split: of `eval_length` batches, those
            whose number modulo the number of processes is its rank.
        setters: path -> (function that sets a scheduled value, schedule step -> value).
        eval_length: number of batches that all processes' `eval_batches` give together.
        source_id: index in the evaluation split -> name of the image at its source.
        picture: index in the evaluation split -> its image (3 h w) or video (t 3 h w) uint8, for batches without.
        inputs: names of the batch entries that the model takes.
        folder: where this run writes, or None to write nothing, as in all processes but the main one.
        grad_norm_type: order of the norm that `max_grad_norm` limits, as PyTorch takes it.
        processes: those that run it together.
        share: step -> part of the step's samples that this process has, in (0, 1]; 0 if its one only fills in.
        accumulate: pieces that a batch goes through the model in.
        micro_batch: samples of such a piece at most, None for no limit, "auto" to find what fits.
        max_not_finite: steps in a row whose loss or gradient is not finite before training is given up.
        step: optimizer steps done.
        evaluated: the step of the latest evaluation.
        measuring: True while metrics are wanted for the present batch.
        stop: set by a signal; the loop ends before its next step.
        not_finite: such steps in a row, as far as the log has read them.
        raw: the batch as the loader gave it; `batch` is the same on the device, transformed.
        losses: of the present step, means over this process's samples.
        spent: what this process did beside training steps -> seconds of it, see `spending`.
    """

    model: nn.Module
    loss: dict[str, Callable]
    metric: list[Callable]
    optimizer: Any
    accelerator: Any
    callbacks: list[Any]
    batch_transforms: list[Callable]
    train_batches: Callable[..., Iterable[dict]]  # of a step, and a dataset in place of its own
    eval_batches: Callable[..., Iterable[dict]]  # of a dataset in place of its own
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
    picture: Callable[[int], Tensor] = _no_picture
    processes: Processes = field(default_factory=Processes)
    share: Callable[[int], float] = lambda step: 1.0
    accumulate: int = 1
    micro_batch: int | str | None = None
    max_not_finite: int = 20
    step: int = 0
    evaluated: int = 0
    measuring: bool = False
    stop: bool = False
    not_finite: int = 0
    agreement: Agreement | None = None
    raw: dict = field(default_factory=dict)
    batch: dict = field(default_factory=dict)
    output: dict = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    grad_norm: Tensor | None = None
    result: dict[str, float] = field(default_factory=dict)
    excluded: dict[str, int] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.accelerator.device

    @property
    def network(self) -> nn.Module:
        """The model without what makes several processes' gradients one."""
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    @property
    def finished(self) -> bool:
        """Whether the last step was done and evaluated."""
        return self.step >= self.total_steps and not evaluation_due(self)


def evaluation_due(run: Run) -> bool:
    """Tell whether the steps done so far end a section of training that was not evaluated yet."""
    ends = run.step % run.eval_every == 0 or run.step == run.total_steps
    return ends and run.evaluated != run.step


@contextmanager
def spending(run: Run, part: str) -> Iterator[None]:
    """Count the seconds of a block for a part of the run."""
    began = time.perf_counter()
    try:
        yield
    finally:
        run.spent[part] = run.spent.get(part, 0.0) + time.perf_counter() - began


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


def seed_noise(device: torch.device, *numbers: int) -> None:
    """Seed the generators that a model draws from, by a hash of numbers that name the occasion.

    Noise is a function of seed, step, process and piece. It needs no state in a checkpoint, and repeats whatever was
    drawn before. This costs microseconds and no wait for the device.
    """
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "little") >> 1
    torch.default_generator.manual_seed(seed)  # `torch.manual_seed` asks all kinds of devices, for a tenth of a ms
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def forward(run: Run, batch: dict) -> None:
    """Bring a batch to the device, run the model on it; sets `run.batch`, `run.output`, emits `after_forward`.

    Outputs in half precision become float32, but for those that a loss reads as they are (its `reads_half`).
    """
    run.raw = batch
    moved = {
        key: value.to(run.device, non_blocking=True) if isinstance(value, Tensor) else value
        for key, value in batch.items()
    }
    for transform in run.batch_transforms:
        moved = transform(moved, None)
    run.batch = moved
    run.output = {}  # what the last batch gave, gigabytes of logits for videos, makes room
    # evaluation goes past DistributedDataParallel: there, processes may have different numbers of batches
    model = run.model if torch.is_grad_enabled() else run.network
    inputs = {key: moved[key] for key in run.inputs if key in moved}
    with named("model", inputs), run.accelerator.autocast():
        output = model(**inputs)
    as_it_is = {getattr(loss, "reads_half", None) for loss in run.loss.values()}
    run.output = {
        key: value if f"output.{key}" in as_it_is else convert_to_fp32(value) for key, value in output.items()
    }
    emit(run, "after_forward")


def compute_losses(run: Run) -> dict[str, Tensor]:
    """Return the weighted losses of the present batch.

    Raises:
        ConfigError: a loss refuses what it is given.
    """
    losses = {}
    for name, loss in run.loss.items():
        with named(f"loss.{name}"):
            losses[name] = loss(run.batch, run.output)
    return losses


@contextmanager
def named(path: str, inputs: dict[str, Tensor] | None = None) -> Iterator[None]:
    """Let what a part refuses, by `ValueError`, become a `ConfigError` that begins with the part's config path.

    Sizes of parts are compared when they are built, but what data and parts give is known with the first batch only.

    Args:
        path: of the part.
        inputs: what it was given; the text ends with their shapes.
    """
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in (inputs or {}).items())
        raise ConfigError(f"{path}: {error}" + (f" (given: {shapes})" if shapes else "")) from error


def measure(run: Run) -> None:
    """Fill `run.scores` with the metrics of the present batch."""
    run.scores = {}
    for metric in run.metric:
        run.scores.update(metric(run.batch, run.output))


def last_good(run: Run) -> str:
    """Return in words which checkpoint a run that went wrong can go back to."""
    good = run.folder / "last" if run.folder else None
    return f"last good checkpoint: {good}" if good and good.exists() else "no checkpoint was written yet"
