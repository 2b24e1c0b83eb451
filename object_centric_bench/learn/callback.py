"""Callbacks: what happens around the steps of a run. Each answers some of the six events of `loop.EVENTS`."""

import json
import logging
import math
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..registry import register
from . import checkpoint
from .loop import Run, TrainingStopped, check_finite
from .metric import Average
from .path import fetch, fetch_tensor

log = logging.getLogger(__name__)


@register
class MaskToSegment:
    """Turn soft masks into an index map, `output.segment`: bilinear to the picture's size, then the largest slot.

    Runs only where metrics or pictures need it. Ties go to the first slot; there is no threshold.
    """

    def __init__(self, mask: str, size: list[int]):
        self.mask, self.size = mask, size
        self.crowded: Tensor | int = 0  # evaluated samples with more objects than masks
        self.samples, self.warned = 0, False

    def after_forward(self, run: Run) -> None:
        """Add `output.segment` (b h w) or (b t h w) uint8, a slot per pixel, and its source `output.segment_mask`."""
        if run.measuring:
            mask = fetch(self.mask, run.batch, run.output, "MaskToSegment.mask")
            run.output["segment_mask"] = mask
            run.output["segment"] = mask_to_segment(mask, self.size)
            if not self.warned and "segment" in run.batch:
                most = run.batch["segment"].flatten(1).amax(dim=1)  # ids are 1..n
                self.crowded = self.crowded + (most > mask.shape[-3]).sum()  # stays on the device
                self.samples += len(most)

    def after_eval(self, run: Run) -> None:
        """Warn once if samples had more objects than there are slots."""
        if not self.warned and (crowded := int(self.crowded)):
            log.warning(
                "%d of %d scored samples have more objects than the model has slots: some objects must share one "
                "(knob num_slots)", crowded, self.samples
            )  # fmt: skip
            self.warned = True
        self.crowded = self.samples = 0


def mask_to_segment(mask: Tensor, size: list[int]) -> Tensor:
    """Return the index of the largest mask per pixel after resizing bilinearly to `size` [h, w].

    Args:
        mask: (b s h' w') float; of videos (b t s h' w'), resized one by one, because a batch of them needs gigabytes.
        size: of the index map.

    Returns:
        (b h w) or (b t h w) uint8, or int32 of more than 256 masks.
    """
    if mask.ndim == 5:
        return torch.stack([mask_to_segment(frames, size) for frames in mask])
    index = F.interpolate(mask.float(), size=size, mode="bilinear", align_corners=False).argmax(dim=1)
    return index.to(torch.uint8 if mask.shape[1] <= 256 else torch.int32)


@register
class ReconstructionTarget:
    """Resize the input picture to the size of its reconstruction, once per step for all losses: `batch.target`.

    Of a reconstruction at several scales, `batch.target` is a list like it; each is made of the full picture.

    Args:
        image: path of the pictures (b c h w), or of videos (b t c h w).
        reconstruction: path of a tensor, or of a list of them.
    """

    def __init__(self, image: str = "batch.image", reconstruction: str = "output.reconstruction"):
        self.image, self.reconstruction = image, reconstruction

    def after_forward(self, run: Run) -> None:
        """Add `batch.target` (b c h w) or (b t c h w) float, or a list of them, bicubic with antialias."""
        image = fetch_tensor(self.image, run.batch, run.output, "ReconstructionTarget.image")
        made = fetch(self.reconstruction, run.batch, run.output, "ReconstructionTarget.reconstruction")
        if isinstance(made, (list, tuple)):
            run.batch["target"] = [shrink_pictures(image, one.shape[-2:]) for one in made]
        else:
            run.batch["target"] = shrink_pictures(image, made.shape[-2:])


@torch.no_grad()
def shrink_pictures(image: Tensor, size: list[int]) -> Tensor:
    """Return pictures (... c h w) float resized to `size` [h, w], bicubic with antialias."""
    resized = F.interpolate(image.flatten(0, -4), size=size, mode="bicubic", antialias=True)
    return resized.unflatten(0, image.shape[:-3])


@register
class Log:
    """Write losses, scores and rates as JSON lines (`log.jsonl`) and for TensorBoard, and show progress.

    A line holds the mean over the steps since the line before. On a terminal a bar shows loss and time left, elsewhere
    every logged line is printed once. Losses are read from the device every `every` steps only.

    Args:
        every: steps between two lines.
        tensorboard: write event files to the run folder's `tensorboard/`.
    """

    def __init__(self, every: int = 50, tensorboard: bool = True):
        self.every, self.tensorboard = every, tensorboard
        self.pending: list[tuple[int, dict[str, Tensor], Tensor]] = []
        self.average = Average()
        self.writer, self.bar = None, None

    def before_train(self, run: Run) -> None:
        """Open the outputs; of an interrupted run, drop the lines written after its last checkpoint."""
        self.began, self.began_step = time.monotonic(), run.step
        if run.folder is not None:
            file = run.folder / "log.jsonl"
            kept = [line for line in file.read_text().splitlines() if _step(line) <= run.step] if file.exists() else []
            temporary = file.with_suffix(".tmp")
            temporary.write_text("".join(f"{line}\n" for line in kept))
            temporary.replace(file)
            if self.tensorboard:
                from torch.utils.tensorboard import SummaryWriter  # slow import, needed only here

                self.writer = SummaryWriter(run.folder / "tensorboard", purge_step=run.step or None)
        if sys.stderr.isatty():
            self.bar = tqdm(total=run.total_steps, initial=run.step, desc="train", unit="step", smoothing=0.05)

    def after_step(self, run: Run) -> None:
        """Keep the step's numbers on the device; write a line when it is due."""
        losses = {name: value.detach() for name, value in run.losses.items()}
        self.pending.append((run.step - 1, losses, torch.as_tensor(run.grad_norm)))
        if run.measuring:
            self.average.update(run.scores)
        if self.bar is not None:
            self.bar.update()
        if run.step % self.every == 0 or run.step == run.total_steps:
            self._flush(run)

    def _flush(self, run: Run) -> None:
        if not self.pending:
            return
        names = list(self.pending[0][1])
        rows = torch.stack([torch.stack([*losses.values(), norm]).float() for _, losses, norm in self.pending]).tolist()
        for (step, _, _), row in zip(self.pending, rows, strict=True):
            check_finite(run, dict(zip(names, row[:-1], strict=True)), step)
        finite = [[value for value in column if math.isfinite(value)] for column in zip(*rows, strict=True)]
        means = [sum(column) / len(column) if column else None for column in finite]
        seconds = (time.monotonic() - self.began) / max(run.step - self.began_step, 1)
        values = {f"loss/{name}": value for name, value in zip(names, means, strict=False)}
        values["loss"] = sum(value for value in means[:-1] if value is not None)
        values |= {f"score/{name}": value for name, value in self.average.result().items()}
        values |= {"grad_norm": means[-1], "seconds_per_step": seconds, "lr": run.optimizer.param_groups[0]["lr"]}
        values |= {name: schedule(run.step - 1) for name, (_, schedule) in run.setters.items()}
        self._write(run, {"split": "train", "step": run.step, **values})
        left = seconds * (run.total_steps - run.step)
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {values['loss']:.4f}")
        else:
            text = f"step {run.step}/{run.total_steps}  loss {values['loss']:.4f}  {_duration(left)} left"
            print(text, file=sys.stderr, flush=True)
        self.pending.clear()
        self.average = Average()

    def after_eval(self, run: Run) -> None:
        """Write and show the scores of the evaluation split."""
        self._write(run, {"split": "eval", "step": run.step, **run.result, "excluded": run.excluded})
        scores = "  ".join(f"{name} {value:.4f}" for name, value in run.result.items())
        tqdm.write(f"step {run.step}  eval  {scores}", file=sys.stderr)

    def after_train(self, run: Run) -> None:
        """Write what is pending and close the outputs."""
        self._flush(run)
        if self.bar is not None:
            self.bar.close()
        if self.writer is not None:
            self.writer.close()

    def _write(self, run: Run, row: dict[str, Any]) -> None:
        if run.folder is None:
            return
        row = {name: _or_null(value) for name, value in row.items()}
        with (run.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        if self.writer is not None:
            for name, value in row.items():
                if isinstance(value, (int, float)) and name != "step":
                    self.writer.add_scalar(f"{row['split']}/{name}", value, run.step)


def _step(line: str) -> int:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):  # a line cut by a crash is dropped
        return sys.maxsize


def _or_null(value: Any) -> Any:
    """Return None for a number that JSON cannot hold: now and then a gradient scaled for fp16 overflows."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


@register
class Save:
    """Keep the checkpoints `last` (to resume from) and `best` (by a score of the evaluation split).

    Args:
        best: name of the score or loss that decides, as evaluation reports it.
        higher: whether higher is better.
    """

    def __init__(self, best: str, higher: bool):
        self.best, self.higher = best, higher
        self.best_value: float | None = None
        self.saved_step = -1

    def state_dict(self) -> dict:
        """Return what a resumed run must know: the best value so far."""
        return {"best_value": self.best_value}

    def load_state_dict(self, state: dict) -> None:
        """Take over the best value so far."""
        self.best_value = state["best_value"]

    def after_eval(self, run: Run) -> None:
        """Save `best` if it improved, and `last`.

        Raises:
            TrainingStopped: evaluation reported no such score, or the weights are not finite.
        """
        if run.folder is None:
            return
        if self.best not in run.result:
            raise TrainingStopped(
                f"Save.best names {self.best!r}, evaluation reports: {', '.join(run.result)}; "
                "a score no image of the evaluation split is valid for is not reported"
            )
        value = run.result[self.best]
        if self.best_value is None or (value > self.best_value if self.higher else value < self.best_value):
            self.best_value = value
            self._save(run, "best", state=False)
        self._save(run, "last", state=True)

    def after_train(self, run: Run) -> None:
        """Save `last` for a run that was stopped between two evaluations."""
        if run.folder is not None and run.step != self.saved_step:
            self._save(run, "last", state=True)

    def _save(self, run: Run, name: str, state: bool) -> None:
        model = run.accelerator.unwrap_model(run.model)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not all(bool(torch.isfinite(parameter).all()) for parameter in trained):
            good = run.folder / "last"
            kept = f"last good checkpoint: {good}" if good.exists() else "no checkpoint was written yet"
            raise TrainingStopped(f"weights are not finite at step {run.step}, nothing saved; {kept}")
        info = {"step": run.step, "seed": run.seed, "scores": run.result, "config": run.cfg}
        checkpoint.save(run.folder / name, model, info, training_state(run) if state else None)
        if state:
            self.saved_step = run.step


def training_state(run: Run) -> dict:
    """Return all that resuming needs besides the weights, as tensors, numbers, text, lists and dicts."""
    return {
        "step": run.step,
        "config": json.dumps(run.cfg),
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.accelerator.scaler.state_dict() if run.accelerator.scaler is not None else {},
        "generator": torch.get_rng_state(),
        "cuda_generators": torch.cuda.get_rng_state_all() if run.device.type == "cuda" else [],
        "callbacks": [c.state_dict() if hasattr(c, "state_dict") else {} for c in run.callbacks],
    }


def restore(run: Run, state: dict) -> None:
    """Bring a run back to where `training_state` was taken (weights aside)."""
    run.step = state["step"]
    run.optimizer.load_state_dict(state["optimizer"])
    if run.accelerator.scaler is not None and state["scaler"]:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["generator"])
    if run.device.type == "cuda" and state["cuda_generators"]:
        torch.cuda.set_rng_state_all(state["cuda_generators"])
    for callback, saved in zip(run.callbacks, state["callbacks"], strict=True):
        if hasattr(callback, "load_state_dict"):
            callback.load_state_dict(saved)
