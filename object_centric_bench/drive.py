"""What schedules drive: learning rates, and plain numbers inside the model and the losses."""

from collections.abc import Iterator
from typing import Any

from .learn.run import Run
from .registry import ConfigError, suggest


def scheduled(node: dict, path: str = "") -> Iterator[tuple[str, dict]]:
    """Yield (path of what is driven, config of its schedule) of the `schedule` section."""
    for key, child in node.items():
        here = f"{path}.{key}" if path else key
        if not isinstance(child, dict):
            raise ConfigError(f"schedule.{here}: a schedule is a dict with a type, not {child!r}")
        if "type" in child:
            yield here, child
        else:
            yield from scheduled(child, here)


def setter(run: Run, path: str) -> Any:
    """Return the function that sets a scheduled value.

    `optimizer.lr_factor` multiplies the rates that the config gives the optimizer; any other path starts with `model`,
    or with `loss` and the name of a term, and leads to a plain number inside it.

    Raises:
        ConfigError: the path leads nowhere, or to something that is not a number.
    """
    if path == "optimizer.lr_factor":
        base = [group["lr"] for group in run.optimizer.param_groups]

        def scale_rates(factor: float) -> None:
            for group, rate in zip(run.optimizer.param_groups, base, strict=True):
                group["lr"] = rate * factor

        return scale_rates
    first, *steps = path.split(".")
    if first == "loss" and len(steps) > 1:
        owner = run.loss.get(steps.pop(0))
    elif first == "model" and steps:
        owner = run.accelerator.unwrap_model(run.model)
    else:
        known = "'optimizer.lr_factor' or a number inside 'model' or a term of 'loss'"
        raise ConfigError(f"schedule.{path}: a schedule drives {known}")
    for step in steps[:-1]:
        owner = getattr(owner, step, None)
    if not isinstance(getattr(owner, steps[-1], None), (int, float)):
        numbers = [k for k, v in vars(owner).items() if isinstance(v, float)] if owner is not None else []
        raise ConfigError(f"schedule.{path}: no number of this name in the {first}; {suggest(steps[-1], numbers)}")
    return lambda value: setattr(owner, steps[-1], value)
