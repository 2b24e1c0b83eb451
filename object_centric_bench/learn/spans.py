"""Spans of time, each counted for what it is without what runs inside it: on the clock, or on a GPU by its events."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn


class Span(NamedTuple):
    """A stretch of time.

    Attributes:
        name: what it was spent on.
        start: when it began, seconds of `time.perf_counter`, which all processes of a machine share.
        seconds: how long it took, what ran inside it included.
    """

    name: str
    start: float
    seconds: float


class Spans:
    """Collects spans while it is `on`; then `exclusive` has the seconds of each name since `clear`.

    Args:
        device: on CUDA, spans that are `on_device` are measured by events, which wait for nothing until `settle`.
    """

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.on = False
        self.record = False  # mark spans for torch.profiler too
        self.exclusive: dict[str, float] = defaultdict(float)
        self.spans: list[Span] = []
        self.open: list[list[Any]] = []  # name, seconds of what ran inside, whether on the device
        self.pending: list[tuple[str, Any, Any, float]] = []  # name, events, sign

    @contextmanager
    def __call__(self, name: str, on_device: bool = False) -> Iterator[None]:
        """Count the time of the block for a name; a name within itself counts once."""
        if not self.on:
            yield
            return
        mark = torch.profiler.record_function(name) if self.record else None
        if mark is not None:
            mark.__enter__()
        on_device = on_device and self.cuda
        events: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if on_device else []
        parent = self.open[-1] if self.open else None
        self.open.append([name, 0.0, on_device])
        if events:
            events[0].record()
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            _, inner, _ = self.open.pop()
            if events:
                events[1].record()
                self.pending.append((name, events[0], events[1], 1.0))
                if parent is not None and parent[2]:
                    self.pending.append((parent[0], events[0], events[1], -1.0))
            else:
                self.exclusive[name] += elapsed - inner
                if parent is not None:
                    parent[1] += elapsed
            self.spans.append(Span(name, start, elapsed))
            if mark is not None:
                mark.__exit__(None, None, None)

    def settle(self) -> None:
        """Wait for the device and take in what its events say."""
        if self.cuda:
            torch.cuda.synchronize()
            for name, start, end, sign in self.pending:
                self.exclusive[name] += sign * start.elapsed_time(end) / 1e3
            self.pending.clear()

    def clear(self) -> None:
        """Forget all that was measured."""
        self.exclusive.clear()
        self.spans.clear()

    def wrap(self, owner: Any, method: str, name: str, on_device: bool = False) -> Callable[[], None]:
        """Count the calls of one object's method for a name; return what undoes that."""
        original = getattr(owner, method)
        had = method in vars(owner)

        def timed(*arguments: Any, **named: Any) -> Any:
            with self(name, on_device):
                return original(*arguments, **named)

        setattr(owner, method, timed)
        return lambda: setattr(owner, method, original) if had else delattr(owner, method)


def watch_modules(spans: Spans, network: nn.Module, prefix: str) -> list[Callable[[], None]]:
    """Count the forward time of each top-level part of a model; return what undoes that.

    A part's own methods count too, such as slot attention's that videos call frame by frame, and so do the modules in
    it that are called by name; what is computed between parts remains the model's own.
    """
    undo = []
    for name, part in network.named_children():
        row = f"{prefix}{name}"
        for module in [part, *part.children()]:
            undo.append(spans.wrap(module, "forward", row, on_device=True))
        public = [key for key, value in vars(type(part)).items() if callable(value) and not key.startswith("_")]
        for method in public:
            if method not in ("forward", "train") and not isinstance(vars(type(part))[method], (staticmethod, type)):
                undo.append(spans.wrap(part, method, row, on_device=True))
    return undo
