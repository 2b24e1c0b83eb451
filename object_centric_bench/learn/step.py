"""One optimizer step: a batch in one or more pieces, gradients that are those of the whole batch of all processes."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from functools import reduce
from itertools import pairwise

import torch
from torch import Tensor, nn

from .health import without_gradient
from .run import Run, TrainingStopped, compute_losses, forward, last_good, measure, seed_noise


def take_step(run: Run, batch: dict, parameters: list[nn.Parameter]) -> None:
    """Update the weights by the mean loss over the samples that all processes have for this step.

    Losses are means over samples. A piece counts by its number of samples, a process by its share of the step's
    samples, so that neither the number of pieces nor of processes changes the gradient but by rounding. Sets
    `run.losses`, `run.grad_norm` and, while measuring, `run.scores`.

    Args:
        parameters: the trained ones, whose gradient is clipped.
    """
    run.optimizer.zero_grad(set_to_none=True)
    share = run.share(run.step) * run.processes.count  # gradients are averaged over processes
    size = len(batch["index"])
    count = number_of_pieces(run, size)
    rows, scores = [], []
    for number, piece in enumerate(pieces(batch, count)):
        # processes talk once per step, while the last piece goes back
        with nullcontext() if number == count - 1 else run.accelerator.no_sync(run.model):
            losses = run_piece(run, piece, number, len(piece["index"]) / size * share)
        rows.append((len(piece["index"]) / size, losses))
        if run.measuring:
            with torch.no_grad():
                measure(run)
            scores.append(run.scores)
    require_gradients(run, parameters)
    run.losses = {name: _sum(_scaled(row[name], weight) for weight, row in rows) for name in run.loss}
    run.scores = _joined(scores)
    run.grad_norm = run.accelerator.clip_grad_norm_(parameters, run.max_grad_norm, run.grad_norm_type)
    step_if_finite(run)


def require_gradients(run: Run, parameters: list[nn.Parameter]) -> None:
    """Stop if several processes did not average all gradients.

    Raises:
        TrainingStopped: trained parameters got none, which `DistributedDataParallel` must be told beforehand.
    """
    if run.processes.count == 1 or all(parameter.grad is not None for parameter in parameters):
        return
    if not getattr(run.model, "find_unused_parameters", False):
        names = without_gradient(run.network)
        raise TrainingStopped(
            f"{len(names)} trained parameters get no gradient in step {run.step}, among them {', '.join(names[:5])}: "
            "freeze them (`freeze`), or set find_unused_parameters=True if others do in other steps; "
            f"{last_good(run)}"
        )


def run_piece(run: Run, piece: dict, number: int, weight: float) -> dict[str, Tensor]:
    """Add a piece's gradients, times its weight; return its losses, detached. Its noise has a seed of its own."""
    seed_noise(run.device, run.seed, run.step, run.processes.rank, number)
    forward(run, piece)
    losses = compute_losses(run)
    run.accelerator.backward(_scaled(_sum(losses.values()), weight))
    return {name: loss.detach() for name, loss in losses.items()}


def number_of_pieces(run: Run, size: int) -> int:
    """Return in how many pieces a batch of `size` samples goes through the model."""
    if isinstance(run.micro_batch, int):
        return -(-size // run.micro_batch)
    return min(run.accumulate, size)


def pieces(batch: dict, count: int) -> Iterator[dict]:
    """Yield a batch in `count` pieces whose sizes differ by one sample at most; none is larger than the first."""
    if count == 1:
        yield batch
        return
    size = len(batch["index"])
    ends = [(number * size + count - 1) // count for number in range(count + 1)]
    for start, end in pairwise(ends):
        yield {key: value[start:end] if isinstance(value, (Tensor, list)) else value for key, value in batch.items()}


def step_if_finite(run: Run) -> None:
    """Let the optimizer step, unless the gradient is not finite; on a GPU nothing waits for the answer.

    With gradient scaling (fp16) the scaler decides. Otherwise a fused optimizer takes the decision on the device.
    """
    if run.accelerator.scaler is None:
        optimizer = getattr(run.optimizer, "optimizer", run.optimizer)  # Accelerate wraps it
        finite = torch.as_tensor(run.grad_norm).isfinite()
        if finite.is_cuda and optimizer.defaults.get("fused"):
            skip_inside(optimizer, finite)
        elif not bool(finite):
            return
    run.optimizer.step()


def skip_inside(optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
    """Have a fused optimizer's next step change nothing where `finite`, a bool scalar on its device, is False.

    That is the interface which PyTorch's gradient scaler uses.
    """
    optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()  # type: ignore[attr-defined]  # of fused ones


def _scaled(loss: Tensor, weight: float) -> Tensor:
    return loss if weight == 1.0 else loss * weight


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, terms)


def _joined(scores: list[dict[str, tuple[Tensor, Tensor]]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the pieces' scores as those of the whole batch."""
    if len(scores) < 2:
        return scores[0] if scores else {}
    return {
        name: (torch.cat([piece[name][0] for piece in scores]), torch.cat([piece[name][1] for piece in scores]))
        for name in scores[0]
    }
