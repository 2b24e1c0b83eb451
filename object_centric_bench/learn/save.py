"""Checkpoints of a run while it trains, and all that one must hold for the run to go on as if it never stopped."""

import json
import time

import torch

from ..registry import ConfigError, register
from . import checkpoint
from .finite import is_finite
from .gather import Agreement
from .run import Run, TrainingStopped, evaluation_due, last_good, spending


@register
class Save:
    """Keep the checkpoints `last` (to resume from) and `best` (by a score of the evaluation split).

    `last` is written after every evaluation, when a run is interrupted, and in between as often as wanted. While
    numbers are not finite nothing is written: what is on disk stays good.

    Args:
        best: name of the score or loss that decides, as evaluation reports it.
        higher: whether higher is better.
        from_step: evaluations before that many steps choose no `best`: while a first stage still fades from latents to
            codes, its error is not that of codes.
        every_minutes: how much work a kill may cost; None = as much as lies between two evaluations.
        every_steps: the same in steps.

    Raises:
        ValueError: a number that is not above 0.
    """

    def __init__(
        self,
        best: str,
        higher: bool,
        from_step: int = 0,
        every_minutes: float | None = 15.0,
        every_steps: int | None = None,
    ):
        for name, value in (("every_minutes", every_minutes), ("every_steps", every_steps)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        self.best, self.higher, self.from_step = best, higher, from_step
        self.every_minutes, self.every_steps = every_minutes, every_steps
        self.best_value: float | None = None
        self.saved: tuple[int, int] | None = None  # steps done and the latest evaluated one, of `last`

    def state_dict(self) -> dict:
        """Return what a resumed run must know: the best value so far."""
        return {"best_value": self.best_value}

    def load_state_dict(self, state: dict) -> None:
        """Take over the best value so far."""
        self.best_value = state["best_value"]

    def before_train(self, run: Run) -> None:
        """Start the clock; raise `ConfigError` if no `best` would ever be chosen."""
        if self.from_step > run.total_steps:
            raise ConfigError(
                f"Save.from_step: no best checkpoint can be chosen from step {self.from_step} on: total_steps is "
                f"{run.total_steps}"
            )
        self.agreement, self.clock = Agreement(run.processes), time.monotonic()
        self.saved = (run.step, run.evaluated) if run.step else None

    def after_step(self, run: Run) -> None:
        """Save `last` if it is time, unless an evaluation follows, which does so."""
        late = self.every_minutes is not None and time.monotonic() - self.clock > 60 * self.every_minutes
        due = self.agreement(late) or (self.every_steps is not None and run.step % self.every_steps == 0)
        if due and not evaluation_due(run) and self._in_order(run):
            self._save_last(run)

    def after_eval(self, run: Run) -> None:
        """Save `best` if it improved and may be chosen by now, and `last`.

        Raises:
            TrainingStopped: evaluation reported no such score, or the weights are not finite.
        """
        if self.best not in run.result:
            raise TrainingStopped(
                f"Save.best names {self.best!r}, evaluation reports: {', '.join(run.result)}; "
                "a score no image of the evaluation split is valid for is not reported"
            )
        if not is_finite({name: run.result[name] for name in run.loss}):
            return
        value = run.result[self.best]
        better = self.best_value is None or (value > self.best_value if self.higher else value < self.best_value)
        if better and run.step >= self.from_step:
            self.best_value = value
            self._save(run, "best", None)
        self._save_last(run)

    def after_train(self, run: Run) -> None:
        """Save `last` for a run that was stopped between two evaluations."""
        if self.saved != (run.step, run.evaluated) and self._in_order(run):
            self._save_last(run)

    def _in_order(self, run: Run) -> bool:
        """Tell whether the latest numbers are finite; the one wait for the device is nothing beside a checkpoint.

        With fp16 single gradients overflow, which is in order.
        """
        if run.accelerator.scaler is not None:
            return run.not_finite < run.max_not_finite // 2
        return run.grad_norm is None or bool(torch.as_tensor(run.grad_norm).isfinite())

    def _save_last(self, run: Run) -> None:
        if run.folder is None and run.processes.count == 1:
            return
        self._save(run, "last", training_state(run))  # a part of which every process has
        self.saved, self.clock = (run.step, run.evaluated), time.monotonic()

    def _save(self, run: Run, name: str, state: dict | None) -> None:
        if run.folder is None:
            return
        trained = [parameter for parameter in run.network.parameters() if parameter.requires_grad]
        if not all(bool(torch.isfinite(parameter).all()) for parameter in trained):
            raise TrainingStopped(f"weights are not finite at step {run.step}, nothing saved; {last_good(run)}")
        info = {"step": run.step, "evaluated": run.evaluated, "seed": run.seed, "scores": run.result, "config": run.cfg}
        with spending(run, "checkpoints"):
            checkpoint.save(run.folder / name, run.network, info, state, keep=name == "last")


def training_state(run: Run) -> dict:
    """Return all that resuming needs besides the weights, as tensors, numbers, text, lists and dicts.

    Noise needs nothing here, it depends on seed and step. Nor does anything depend on the number of processes.
    """
    return {
        "step": run.step,
        "evaluated": run.evaluated,
        "not_finite": run.not_finite,
        "micro_batch": run.micro_batch,
        "processes": run.processes.count,
        "config": json.dumps(run.cfg),
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.accelerator.scaler.state_dict() if run.accelerator.scaler is not None else {},
        "callbacks": [c.state_dict() if hasattr(c, "state_dict") else {} for c in run.callbacks],
    }


def restore(run: Run, state: dict) -> None:
    """Bring a run back to where `training_state` was taken (weights aside)."""
    run.step = state["step"]
    run.evaluated = state.get("evaluated", run.step)  # older versions saved after an evaluation
    run.not_finite = state.get("not_finite", 0)
    if run.micro_batch == "auto" and state.get("processes") == run.processes.count:
        run.micro_batch = state["micro_batch"]  # found when the run began; another one would round differently
    run.optimizer.load_state_dict(state["optimizer"])
    if run.accelerator.scaler is not None and state["scaler"]:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    for callback, saved in zip(run.callbacks, state["callbacks"], strict=True):
        if hasattr(callback, "load_state_dict"):
            callback.load_state_dict(saved)
