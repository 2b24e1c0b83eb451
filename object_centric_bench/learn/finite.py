"""Numbers gone wrong: losses and gradients that are not finite are counted, and explained before a run is given up."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .run import Run, TrainingStopped, forward, last_good, seed_noise

LISTED = 5  # modules with the largest activations
ADVICE = "Try a lower optimizer.lr, a lower max_grad_norm, or precision=no"


def is_finite(losses: dict[str, float], grad_norm: float = 0.0) -> bool:
    """Tell whether all terms and the gradient's norm are numbers."""
    return math.isfinite(grad_norm) and all(math.isfinite(value) for value in losses.values())


def count_step(run: Run, step: int, losses: dict[str, float], grad_norm: float) -> None:
    """Take note of a step's numbers, in the order of the steps; such a step did not change the weights.

    With fp16 a gradient overflows now and then, and many times in a row while the scaler looks for its factor.

    Raises:
        TrainingStopped: the last `max_not_finite` steps were not finite; with terms, activations and what is on disk.
    """
    run.not_finite = 0 if is_finite(losses, grad_norm) else run.not_finite + 1
    if run.not_finite < run.max_not_finite:
        return
    first = step - run.not_finite + 1
    raise TrainingStopped(
        f"the loss is not finite at step {step}, nor at any from step {first} on: {_terms(losses)}, gradient norm "
        f"{grad_norm:.6g}; {last_good(run)}. {ADVICE}\n{explain(run)}"
    )


def require_finite_evaluation(run: Run) -> None:
    """Stop a run whose evaluation lost is not finite, unless it computes in fp16, which may overflow.

    Raises:
        TrainingStopped: see above.
    """
    losses = {name: run.result[name] for name in run.loss}
    if not is_finite(losses) and run.accelerator.scaler is None:
        raise TrainingStopped(
            f"the loss is not finite at step {run.step}, over the evaluation split: {_terms(losses)}; "
            f"{last_good(run)}. {ADVICE}"
        )


class Activation(NamedTuple):
    """The largest absolute value that a module gave out."""

    module: str
    largest: float
    finite: bool


def explain(run: Run) -> str:
    """Send the latest batch through the model once more and tell which modules give out the largest numbers."""
    if not run.raw:
        return "no batch to look at"
    found = activations(run)
    finite = sorted((each for each in found if each.finite), key=lambda each: -each.largest)
    listed = ", ".join(f"{each.module} {each.largest:.4g}" for each in finite[:LISTED])
    broken = next((each.module for each in found if not each.finite), None)
    first = f"the first module that gives out NaN or Inf is {broken}" if broken else "no module gives out NaN or Inf"
    return f"Of the latest batch, {first}; the largest finite activations: {listed or 'none'}"


@torch.no_grad()
def activations(run: Run) -> list[Activation]:
    """Return the largest activation of every module without children, in the order in which they ran.

    The batch is the run's latest and so is its noise; weights and the run's batch and output stay as they are.
    """
    seen: list[tuple[str, Tensor]] = []

    def observe(name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
                seen.append((name, output.detach().abs().amax()))

        return hook

    leaves = [(name, module) for name, module in run.network.named_modules() if name and not any(module.children())]
    handles = [module.register_forward_hook(observe(name)) for name, module in leaves]
    kept = run.raw, run.batch, run.output
    try:
        seed_noise(run.device, run.seed, max(run.step - 1, 0), run.processes.rank, 0)
        forward(run, run.raw)
    finally:
        run.raw, run.batch, run.output = kept
        for handle in handles:
            handle.remove()
    if not seen:
        return []
    values = torch.stack([value.float() for _, value in seen]).tolist()
    return [Activation(name, value, math.isfinite(value)) for (name, _), value in zip(seen, values, strict=True)]


def _terms(losses: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in losses.items())
