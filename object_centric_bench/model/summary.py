"""What a model consists of: parameters, trained or frozen, and where their weights come from."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import nn

RANDOM = "random"


class Row(NamedTuple):
    """One line of the table."""

    module: str
    parameters: int
    trained: int
    origin: str


def summarize(model: nn.Module) -> list[Row]:
    """Return a row per part of a model: its children, and in place of a tokenizer the tokenizer's own."""
    return [row for name, child in model.named_children() for row in _rows(name, child, _origin_of(model))]


def _rows(name: str, module: nn.Module, inherited: str | None) -> Iterator[Row]:
    inherited = _origin_of(module) or inherited
    if name == "tokenizer":
        for key, child in module.named_children():
            yield from _rows(f"{name}.{key}", child, inherited)
        return
    parameters = list(module.parameters())
    buffers = sum(buffer.numel() for buffer in module.state_dict().values()) - sum(p.numel() for p in parameters)
    total = sum(parameter.numel() for parameter in parameters) + buffers
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    if total:
        yield Row(name, total, trained, inherited or " + ".join(sorted(_origins(module))))


def _origins(module: nn.Module) -> set[str]:
    """Return the origins of all weights in a module: those it remembers, and random if some have none."""
    own = _origin_of(module)
    if own is not None:
        return {own}
    found = {RANDOM} if any(True for _ in module.parameters(recurse=False)) else set()
    return found.union(*(_origins(child) for child in module.children()))


def _origin_of(module: nn.Module) -> str | None:
    return getattr(module, "weights_origin", None)


def table(rows: Iterable[Row]) -> str:
    """Return the rows as text, with a sum below."""
    rows = list(rows)
    total = Row("sum", sum(row.parameters for row in rows), sum(row.trained for row in rows), "")
    cells = [("module", "parameters", "trained", "weights from")]
    cells += [(row.module, f"{row.parameters:,}", _state(row), row.origin) for row in [*rows, total]]
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    return "\n".join(
        f"{module:{widths[0]}}  {parameters:>{widths[1]}}  {trained:>{widths[2]}}  {origin}".rstrip()
        for module, parameters, trained, origin in cells
    )


def _state(row: Row) -> str:
    if row.trained == 0:
        return "frozen"
    return "all" if row.trained == row.parameters else f"{row.trained:,}"
