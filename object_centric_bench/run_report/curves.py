"""Which numbers of a run's log are drawn together."""

import math
from collections.abc import Iterable

from .files import RunFiles

MOST = 1500  # points of a line; more cannot be seen
PANELS = {  # title -> beginnings of the names of its lines
    "Loss": ("loss", "loss/", "eval:loss/"),
    "Scores": ("score/", "eval:"),
    "Slots": ("slots/effective", "slots/dead", "slots/duplicate"),
    "Attention's entropy": ("slots/attention_entropy",),
    "Gradient norms": ("grad_norm", "grad_norm/"),
    "Schedules": ("lr", "optimizer.", "model."),
    "Seconds per step": ("seconds_per_step",),
}


def panels(run: RunFiles) -> dict[str, list[dict]]:
    """Return title -> lines, each with `name`, `x` (steps) and `y`, of all that the log holds and is finite."""
    terms = set(run.config.get("loss", {}))
    evaluated = [
        {f"eval:{'loss/' if name in terms else ''}{name}": value for name, value in row.items() if name != "step"}
        | {"step": row["step"]}
        for row in run.eval
    ]
    series: dict[str, tuple[list[int], list[float]]] = {}
    for row in [*run.train, *evaluated, *run.timing]:
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)) and math.isfinite(value):
                steps, values = series.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    drawn: dict[str, list[dict]] = {}
    taken: set[str] = set()
    for title, beginnings in PANELS.items():
        names = [name for name in series if name not in taken and belongs(name, beginnings)]
        taken |= set(names)
        if names:
            drawn[title] = [line(name, *series[name]) for name in names]
    return drawn


def belongs(name: str, beginnings: Iterable[str]) -> bool:
    """Tell whether a name is one of these, or starts with one that ends in a mark, such as `loss/`."""
    return any(name == each or (not each[-1].isalnum() and name.startswith(each)) for each in beginnings)


def line(name: str, steps: list[int], values: list[float]) -> dict:
    """Return one line, thinned evenly if it has very many points; the last point stays."""
    stride = max(1, math.ceil(len(steps) / MOST))
    keep = sorted({*range(0, len(steps), stride), len(steps) - 1})
    return {"name": name.removeprefix("score/"), "x": [steps[k] for k in keep], "y": [values[k] for k in keep]}
