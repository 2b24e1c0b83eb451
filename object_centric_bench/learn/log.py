"""The log of a run: losses, scores, rates and health, as lines of JSON, for TensorBoard, and on the terminal."""

import json
import math
import sys
import time
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ..console import quiet
from ..registry import register
from .finite import count_step, is_finite
from .gather import Processes
from .health import Watch, gradient_norms, slot_health, without_gradient
from .lines import LineFile
from .metric import Average
from .run import Run
from .wandb_writer import WandbWriter

LOG, LOSSES, TIMING = "log.jsonl", "losses.csv", "timing.jsonl"


class Step(NamedTuple):
    """What the log keeps of a step.

    Attributes:
        step: optimizer steps done before it.
        numbers: its losses over the samples of all processes, and last the gradient's norm before clipping.
    """

    step: int
    numbers: list[float]


@register
class Log:
    """Write losses, scores and rates as JSON lines (`log.jsonl`) and for TensorBoard, and show progress.

    A line holds the mean over the steps since the line before, how many of these changed nothing because a number was
    not finite (`skipped_steps`), and of its last step how slots and gradients are, see `health`. On a terminal a bar
    shows loss and time left, elsewhere every logged line is printed once. Numbers are read from the device every
    `every` steps only. `losses.csv` has the losses of every step, exact to float32; `timing.jsonl` the seconds that
    steps took, and what the time since the line before went into: the one thing that is not the same when a run is
    repeated.

    Args:
        every: steps between two lines.
        tensorboard: write event files to the run folder's `tensorboard/`.
        wandb: project of Weights & Biases to log to as well; None = none.
    """

    def __init__(self, every: int = 50, tensorboard: bool = True, wandb: str | None = None):
        self.every, self.tensorboard, self.wandb = every, tensorboard, wandb
        self.pending: list[tuple[int, Tensor]] = []  # on the device, of this process
        self.read: list[Step] = []
        self.average, self.health = Average(), Average()
        self.gradients: dict[str, Tensor] = {}
        self.idle: list[str] = []
        self.watch = Watch()
        self.files: dict[str, LineFile] = {}
        self.restored: dict[str, Any] = {}
        self.writers: list[Any] = []
        self.bar: tqdm | None = None
        self.run: Run | None = None

    def state_dict(self) -> dict:
        """Return what stands between two lines, and how long the files are; all processes call this together."""
        self._read()
        return {
            "steps": [[step, numbers] for step, numbers in self.read],
            "scores": self._over_processes(self.average).sums(),
            "sizes": {name: file.sync() for name, file in self.files.items()},
        }

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned; effective when training begins."""
        self.restored = state

    def before_train(self, run: Run) -> None:
        """Open the outputs; of an interrupted run, drop what was written after its last checkpoint."""
        self.run, self.began, self.began_step = run, time.monotonic(), run.step
        self.told, self.spent = self.began, dict(run.spent)
        self.read = [Step(step, numbers) for step, numbers in self.restored.get("steps", [])]
        self.average = Average.total([self.restored.get("scores", {})] if run.processes.main else [])
        if run.folder is not None:
            sizes = self.restored.get("sizes", {})  # none: a new run, or one of an older version, which keeps its lines
            for name in (LOG, LOSSES, TIMING):
                self.files[name] = LineFile(run.folder / name, sizes.get(name, None if run.step else 0))
            if self.files[LOSSES].sync() == 0:
                self.files[LOSSES].add([",".join(["step", *run.loss, "grad_norm"])])
            if self.tensorboard:
                from torch.utils.tensorboard import SummaryWriter  # slow import, needed only here

                purge = run.step + 1 if run.step else None
                self.writers.append(SummaryWriter(run.folder / "tensorboard", purge_step=purge))
            if self.wandb is not None:
                self.writers.append(WandbWriter(self.wandb, run.folder, run.cfg))
        if sys.stderr.isatty() and run.processes.main and not quiet():
            self.bar = tqdm(total=run.total_steps, initial=run.step, desc="train", unit="step", smoothing=0.05)

    def after_step(self, run: Run) -> None:
        """Keep the step's numbers on the device; write a line when it is due."""
        share = run.share(run.step - 1)
        self.pending.append((run.step - 1, numbers_of_step(run)))
        if run.measuring and share:
            self.average.update(run.scores)
        if self.bar is not None:
            self.bar.update()
        if run.step % self.every == 0 or run.step == run.total_steps:
            self.health = Average()
            self.health.update(slot_health(run.output) if share else {})
            self.gradients, self.idle = gradient_norms(run.network), without_gradient(run.network)
            self._write_line(run)

    def _read(self) -> None:
        """Bring the pending steps' numbers here, by one transfer, and add those of the other processes."""
        steps = [step for step, _ in self.pending]
        rows = torch.stack([row for _, row in self.pending]).tolist() if steps else []
        self.pending.clear()
        rows = add_processes(self.run.processes, rows) if self.run is not None else rows
        self.read += [Step(step, row) for step, row in zip(steps, rows, strict=True)]

    def _over_processes(self, average: Average) -> Average:
        return Average.total(self.run.processes.gather(average.sums())) if self.run is not None else average

    def _write_line(self, run: Run) -> None:
        self._read()
        scores, health = (self._over_processes(each).result() for each in (self.average, self.health))
        self._write_losses()
        names = list(run.loss)
        for step, numbers in self.read:
            count_step(run, step, dict(zip(names, numbers, strict=False)), numbers[-1])
        rows = [numbers for _, numbers in self.read]
        finite = [[value for value in column if math.isfinite(value)] for column in zip(*rows, strict=True)]
        means = [sum(column) / len(column) if column else None for column in finite]
        values = {f"loss/{name}": value for name, value in zip(names, means, strict=False)}
        loss = sum(value for value in means[:-1] if value is not None)
        values["loss"] = loss
        values |= {f"score/{name}": value for name, value in scores.items()}
        values |= {"grad_norm": means[-1], "lr": run.optimizer.param_groups[0]["lr"]}
        values |= {name: schedule(run.step - 1) for name, (_, schedule) in run.setters.items()}
        values["skipped_steps"] = sum(not is_finite({}, sum(row)) for row in rows)
        norms = torch.stack([*self.gradients.values()]).tolist() if self.gradients else []
        values |= health | dict(zip(self.gradients, norms, strict=True))
        values["without_gradient"] = len(self.idle)
        self._write(run, {"split": "train", "step": run.step, **values})
        self._tell(run, loss)
        if run.processes.main:
            self.watch.look(values, self.idle, run.step, run.total_steps)
        self.read.clear()
        self.average = Average()

    def _write_losses(self) -> None:
        if LOSSES in self.files:
            rows = ([str(step), *(f"{value:.9g}" for value in numbers)] for step, numbers in self.read)
            self.files[LOSSES].add(",".join(row) for row in rows)

    def _tell(self, run: Run, loss: float) -> None:
        """Show loss and time left, and note the time that steps took since training began or was taken up again."""
        seconds = (time.monotonic() - self.began) / max(run.step - self.began_step, 1)
        if TIMING in self.files:
            self._note_time(run, {"seconds_per_step": seconds})
        for writer in self.writers:
            writer.add_scalar("train/seconds_per_step", seconds, run.step)
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.4f}")
        elif run.processes.main and not quiet():
            left = _duration(seconds * (run.total_steps - run.step))
            text = f"step {run.step}/{run.total_steps}  loss {loss:.4f}  {left} left"
            print(text, file=sys.stderr, flush=True)

    def _note_time(self, run: Run, facts: dict[str, float]) -> None:
        """Write what the time since the last call went into: steps, and whatever interrupted them."""
        now = time.monotonic()
        parts = {part: seconds - self.spent.get(part, 0.0) for part, seconds in run.spent.items()}
        whole = {"training steps": max(0.0, now - self.told - sum(parts.values())), **parts}
        self.told, self.spent = now, dict(run.spent)
        self.files[TIMING].add([json.dumps({"step": run.step, **facts, "seconds": whole})])

    def after_eval(self, run: Run) -> None:
        """Write and show the scores of the evaluation split."""
        self._write(run, {"split": "eval", "step": run.step, **run.result, "excluded": run.excluded})
        if run.processes.main and not quiet():
            scores = "  ".join(f"{name} {value:.4f}" for name, value in run.result.items())
            tqdm.write(f"step {run.step}  eval  {scores}", file=sys.stderr)

    def after_train(self, run: Run) -> None:
        """Close the outputs; steps that no line tells of yet are kept in the checkpoint."""
        if TIMING in self.files:
            self._note_time(run, {})  # of the last evaluation
        if self.bar is not None:
            self.bar.close()
        for writer in self.writers:
            writer.close()

    def _write(self, run: Run, row: dict[str, Any]) -> None:
        if LOG not in self.files:
            return
        row = {name: _or_null(value) for name, value in row.items()}
        self.files[LOG].add([json.dumps(row, allow_nan=False)])
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                for writer in self.writers:
                    writer.add_scalar(f"{row['split']}/{name}", value, run.step)


def numbers_of_step(run: Run) -> Tensor:
    """Return what this process adds to the losses of the step just taken, and last the gradient's norm (n) float32."""
    losses = torch.stack([*run.losses.values()]).detach().float() * run.share(run.step - 1)
    norm = torch.as_tensor(run.grad_norm, dtype=torch.float32, device=losses.device)
    return torch.cat([losses, norm[None]])


def add_processes(processes: Processes, rows: list[list[float]]) -> list[list[float]]:
    """Return the numbers of steps over all processes: losses add up, the gradient's norm is the same in each."""
    parts = processes.gather(rows)
    return [
        [*(sum(values) for values in zip(*(row[:-1] for row in step), strict=True)), step[0][-1]]
        for step in zip(*parts, strict=True)
    ]


def _or_null(value: Any) -> Any:
    """Return None for a number that JSON cannot hold: now and then a gradient scaled for fp16 overflows."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
