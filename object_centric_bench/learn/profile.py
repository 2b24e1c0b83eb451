"""Where the time of a training step goes: the loop as it is, watched from outside, changing no number."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .loop import train
from .run import EVENTS, Run
from .spans import Span, Spans, watch_modules

WARM_UP = 5  # steps before the measured ones: first calls allocate, choose algorithms, start workers
TRACED = 3  # steps after them, slower, whose operators the trace shows
SAMPLES, BATCH = "timing", "timing_of_batch"  # entries that an instrumented dataset adds to batches
PARTS = ("read", "decode", "transform", "collate")
FORWARD = "forward: "
BEFORE = (*PARTS, "waiting for data", "copy", "batch transforms")
AFTER = ("losses", "backward", "clip gradients", "optimizer", "metrics", "logging", "callbacks")
REST = "the rest of the loop"


@dataclass
class Profile:
    """What was measured.

    Attributes:
        steps: the number of measured steps.
        step: mean seconds of a step.
        spread: seconds of the fastest and the slowest step.
        rows: name -> mean seconds per step, of the process that trains; they add up to `step`.
        data: read, decode, transform, collate -> mean seconds per batch, in the workers or, without any, in `rows`.
        workers: how many make batches, 0 for none.
        spans: of the traced steps, of all processes, by process id.
    """

    steps: int
    step: float
    spread: tuple[float, float]
    rows: dict[str, float]
    data: dict[str, float]
    workers: int
    spans: dict[int, list[Span]] = field(default_factory=dict)


class Watch:
    """Turns a run into one that measures.

    Metrics are measured in one of the measured steps at least, and count as often as the run measures them.

    Args:
        run: its batches come from an instrumented dataset.
        steps: to measure.
        profiler: None, or a `torch.profiler.profile` for the traced steps.
    """

    def __init__(self, run: Run, steps: int, profiler: torch.profiler.profile | None):
        self.run, self.steps, self.profiler = run, steps, profiler
        self.spans = Spans(run.device)
        self.workers = run.cfg["dataset"]["num_workers"]
        self.data: list[dict[str, float]] = []
        self.batches: list[dict[str, Tensor]] = []  # timings of the batches of traced steps
        self.seconds: list[float] = []
        self.measured: dict[str, float] = {}
        self.traced: list[Span] = []
        self.undo: list[Callable[[], None]] = []
        self.metric_every = run.metric_every
        run.metric_every = min(run.metric_every, steps)

    def attach(self) -> None:
        """Watch everything that a step consists of."""
        run, wrap = self.run, self.spans.wrap
        for name, term in run.loss.items():
            run.loss[name] = self.timed(term, "losses", True)
        run.metric[:] = [self.timed(metric, "metrics", True) for metric in run.metric]
        run.batch_transforms = [self.timed(transform, "batch transforms", True) for transform in run.batch_transforms]
        for callback in run.callbacks:
            for event in set(EVENTS) & set(dir(callback)):
                self.undo.append(wrap(callback, event, "logging" if type(callback).__name__ == "Log" else "callbacks"))
        self.undo += watch_modules(self.spans, run.network, FORWARD)
        self.undo.append(wrap(run.network, "forward", f"{FORWARD}between parts", True))
        self.undo.append(wrap(run.accelerator, "backward", "backward", True))
        self.undo.append(wrap(run.accelerator, "clip_grad_norm_", "clip gradients", True))
        self.undo += [wrap(run.optimizer, method, "optimizer", True) for method in ("step", "zero_grad")]
        batches = run.train_batches
        run.train_batches = lambda step: self.watched(iter(batches(step)))

    def timed(self, function: Callable, name: str, on_device: bool) -> Callable:
        """Return a callable whose time counts for a name."""

        def call(*arguments: object) -> object:
            with self.spans(name, on_device):
                return function(*arguments)

        return call

    def watched(self, batches: Iterator[dict]) -> Iterator[dict]:
        """Yield batches on their way to the loop, whose body is a step; stop after the last one that is wanted."""
        first = WARM_UP
        last = WARM_UP + self.steps
        traced = last + (TRACED if self.profiler is not None else 0)
        for number in range(traced):
            self.spans.on = number >= first
            if number == last:
                self.measured = dict(self.spans.exclusive)
                self.spans.clear()
                self.spans.record = True
                if self.profiler is not None:
                    self.profiler.start()
            begin = time.perf_counter()
            with self.spans("waiting for data"):
                batch = next(batches, None)
            if batch is None:
                break
            samples, whole = batch.pop(SAMPLES), batch.pop(BATCH)
            if first <= number < last:
                self.data.append(parts(samples, whole))
            elif number >= last:
                self.batches.append({SAMPLES: samples, BATCH: whole})
            batch = self.copied(batch)
            yield batch
            self.spans.settle()
            if first <= number < last:
                self.seconds.append(time.perf_counter() - begin)
        if self.profiler is not None:
            self.profiler.stop()
            self.traced = list(self.spans.spans)
        self.measured = self.measured or dict(self.spans.exclusive)
        self.spans.on = False
        self.run.stop = True

    def copied(self, batch: dict) -> dict:
        """Bring a batch to the device here, where it can be measured; the loop finds it there."""
        with self.spans("copy", True):
            return {
                key: value.to(self.run.device, non_blocking=True) if isinstance(value, Tensor) else value
                for key, value in batch.items()
            }

    def result(self) -> Profile:
        """Return what was measured."""
        count = len(self.seconds)
        rows = {name: seconds / count for name, seconds in self.measured.items()}
        data = {part: statistics.fmean(each[part] for each in self.data) for part in PARTS}
        if not self.workers:  # then they are in the step, and what is left of the waiting is the loader's own
            rows["waiting for data"] = max(rows["waiting for data"] - sum(data.values()), 0.0)
            rows |= data
        rest = statistics.fmean(self.seconds) - sum(rows.values())
        if "metrics" in rows:
            rows["metrics"] *= self.run.metric_every / self.metric_every
        model = sorted((name for name in rows if name.startswith(FORWARD)), key=rows.__getitem__, reverse=True)
        before = [name for name in BEFORE if name not in PARTS or not self.workers]
        rows = {name: rows.get(name, 0.0) for name in (*before, *model, *AFTER)} | {REST: rest}
        step = sum(rows.values())
        spans = {os.getpid(): self.traced}
        for batch in self.batches:
            for process, span in spans_of(batch[SAMPLES], batch[BATCH]):
                spans.setdefault(process, []).append(span)
        return Profile(count, step, (min(self.seconds), max(self.seconds)), rows, data, self.workers, spans)


def parts(samples: Tensor, whole: Tensor) -> dict[str, float]:
    """Return the seconds that a batch's parts took.

    Args:
        samples: (b 5) float64: when each sample began, its seconds of read, decode and transform, the process.
        whole: (3) float64: when collating began, its seconds, the process.
    """
    read, decode, transform = samples[:, 1:4].sum(dim=0).tolist()
    return {"read": read, "decode": decode, "transform": transform, "collate": float(whole[1])}


def spans_of(samples: Tensor, whole: Tensor) -> Iterator[tuple[int, Span]]:
    """Yield (process, span) of a batch's parts, each sample's put one after the other; arguments as for `parts`."""
    for start, *seconds, process in samples.tolist():
        for part, each in zip(PARTS, seconds, strict=False):
            yield int(process), Span(part, start, each)
            start += each
    start, seconds, process = whole.tolist()
    yield int(process), Span("collate", start, seconds)


def profile(run: Run, steps: int, profiler: torch.profiler.profile | None = None) -> Profile:
    """Train some steps and measure; the run is not to be used afterwards but for its weights.

    Args:
        run: its batches come from an instrumented dataset; it must be long enough, and not evaluate on the way.
        steps: to measure, after `WARM_UP` others.
        profiler: sees `TRACED` more steps.

    Raises:
        ValueError: the run ends before.
    """
    watch = Watch(run, steps, profiler)
    watch.attach()
    try:
        train(run)
    finally:
        for undo in reversed(watch.undo):
            undo()
    if len(watch.seconds) < steps:
        raise ValueError(f"the run has {len(watch.seconds)} steps to measure, {steps} were wanted")
    return watch.result()
