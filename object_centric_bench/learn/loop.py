"""The loop: train, evaluate, and the six events that callbacks may answer."""

from collections.abc import Callable, Iterator

import torch

from ..console import bar
from .finite import require_finite_evaluation
from .gather import Agreement
from .metric import Average
from .micro_batch import advice, find_micro_batch, is_out_of_memory
from .optimizer import train_mode
from .run import (
    Run,
    TrainingStopped,
    apply_schedules,
    compute_losses,
    emit,
    evaluation_due,
    forward,
    measure,
    seed_noise,
    spending,
)
from .step import take_step

EVAL_SEED = 0  # of the model's draws while it is evaluated: the same weights score the same in every run


class Interrupted(Exception):
    """A process was asked to stop, and all know."""


def train(run: Run) -> None:
    """Advance `run.step` to `run.total_steps`; a restored run continues where it stopped.

    `run.finished` tells afterwards whether it came to its end, or was asked to stop before.

    Raises:
        TrainingStopped: losses are not finite, or memory ran out.
    """
    run.agreement = Agreement(run.processes)
    emit(run, "before_train")
    parameters = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    try:
        if run.step and evaluation_due(run):  # it was stopped between a step and its evaluation
            score(run)
        for batch in awaited(run):
            leave_if_asked(run)
            train_mode(run.model)
            if run.micro_batch == "auto":
                run.micro_batch = find_micro_batch(run, batch)
            apply_schedules(run)
            run.measuring = bool(run.metric) and run.step % run.metric_every == 0
            emit(run, "before_step")
            take_step(run, batch, parameters)
            run.step += 1
            emit(run, "after_step")
            if evaluation_due(run):
                score(run)
    except Interrupted:
        run.stop = True
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingStopped(advice(run, error)) from error
    run.agreement = None
    emit(run, "after_train")


def awaited(run: Run) -> Iterator[dict]:
    """Yield the batches that are left to train on; the time that the loop waits for them is noted."""
    batches = iter(run.train_batches(run.step))
    while True:
        with spending(run, "waiting for data"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def leave_if_asked(run: Run) -> None:
    """Raise `Interrupted` if this process or, told by the call before, another one was asked to stop."""
    if run.agreement is not None and run.agreement(run.stop):
        raise Interrupted


def score(run: Run) -> None:
    """Evaluate in the midst of training, and tell the callbacks."""
    with spending(run, "evaluation"):
        evaluate(run)
    run.evaluated = run.step
    require_finite_evaluation(run)
    emit(run, "after_eval")


@torch.no_grad()
def evaluate(run: Run, observe: Callable[[Run], None] | None = None) -> None:
    """Score the model on the evaluation split; sets `run.result` and `run.excluded`.

    Losses average over images, metrics over the images they are defined for. Each process takes whole batches, and the
    model's random draws depend on the batch's number only: how many processes there are changes nothing but the order
    of sums. The run's seed does not count, which keeps losses with drawn noise (diffusion) comparable between runs, and
    evaluating neither changes the training that follows nor, repeated, its own result.

    Args:
        observe: called after every batch, with `run.batch`, `run.output`, `run.scores` in place.
    """
    run.network.eval()
    run.measuring = True
    average = Average()
    apply_schedules(run)
    batches = iter(run.eval_batches())
    devices = [run.device] if run.device.type == "cuda" else []
    rounds = range(run.processes.rank, run.eval_length + run.processes.rank, run.processes.count)
    with torch.random.fork_rng(devices):
        for number in bar(rounds, "eval", leave=False) if run.processes.main else rounds:
            leave_if_asked(run)
            batch = next(batches, None)
            if batch is None:  # other processes have one more
                continue
            seed_noise(run.device, EVAL_SEED, number)
            forward(run, batch)
            losses = compute_losses(run)
            size = len(run.batch["index"])
            valid = torch.ones(size, dtype=torch.bool, device=run.device)
            average.update({name: (value.double().expand(size), valid) for name, value in losses.items()})
            measure(run)
            average.update(run.scores)
            if observe is not None:
                observe(run)
    average = Average.total(run.processes.gather(average.sums()))
    run.result, run.excluded = average.result(), average.excluded()
    run.measuring = False
