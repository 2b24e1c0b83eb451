"""Optimizers, groups of parameters with settings of their own, and frozen parts."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from object_centric_bench.registry import ConfigError, register, suggest

GROUP_OPTIONS = ("lr_scale", "weight_decay", "betas", "eps")


@register
class Adam(torch.optim.Adam):
    """Adam, Kingma and Ba, ICLR 2015; all parameters are updated by one fused kernel, on GPUs and on CPUs.

    `params`, parameters or groups of them, comes from the program, the rest from the config. `weight_decay` is added
    to the gradient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        params = _materialise(params)
        fused = _can_fuse(params)
        super().__init__(params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=fused)


@register
class AdamW(torch.optim.AdamW):
    """`Adam` whose weight decay bypasses the gradient's statistics, Loshchilov and Hutter, ICLR 2019."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        params = _materialise(params)
        fused = _can_fuse(params)
        super().__init__(params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=fused)


def parameter_groups(model: nn.Module, groups: list[dict[str, Any]] | None, lr: float) -> list[dict[str, Any]]:
    """Sort the trainable parameters into the groups an optimizer takes.

    Args:
        model: frozen parameters are left out.
        groups: each has a `pattern`, a regular expression that must match whole parameter names, and options:
            `lr_scale` (default 1), `weight_decay`, `betas`, `eps`. None = no groups.
        lr: learning rate of a group whose `lr_scale` is 1.

    Returns:
        one dict per group, in their order, then one of all other parameters if there are any. Each has `params`,
        `lr`, `name` (the pattern or "default") and `lr_scale`: whoever changes `lr` later multiplies by `lr_scale`.

    Raises:
        ConfigError: naming all of: groups without or with a broken pattern or with unknown options, patterns that
            match no trainable parameter, parameters that match several patterns; or nothing is trainable.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trainable:
        raise ConfigError(f"freeze: nothing is left to train of {type(model).__name__}")
    faults: list[str] = []
    owner: dict[str, str] = {}  # parameter -> pattern
    result = []
    for index, group in enumerate(groups or []):
        entry = f"groups.{index}"
        options = {key: value for key, value in group.items() if key != "pattern"}
        for key in options.keys() - set(GROUP_OPTIONS):
            faults.append(f"{entry}.{key}: a group takes no {key!r}; {suggest(key, GROUP_OPTIONS)}")
        if "pattern" not in group:
            faults.append(f"{entry}.pattern: missing, each group requires it")
            continue
        pattern = group["pattern"]
        try:
            names = _matches(pattern, trainable, "trainable parameter")
        except ConfigError as error:
            faults.append(f"{entry}.pattern: {error}")
            continue
        faults += [f"{entry}.pattern: {name!r} matches {owner[name]!r} as well" for name in names if name in owner]
        owner |= dict.fromkeys(names, pattern)
        lr_scale = options.pop("lr_scale", 1.0)
        params = [trainable[name] for name in names]
        result.append({"params": params, "lr": lr * lr_scale, "lr_scale": lr_scale, "name": pattern, **options})
    if faults:
        raise ConfigError("\n".join(faults))
    rest = [parameter for name, parameter in trainable.items() if name not in owner]
    if rest:
        result.append({"params": rest, "lr": lr, "lr_scale": 1.0, "name": "default"})
    return result


def freeze(model: nn.Module, patterns: list[str]) -> None:
    r"""Exclude parameters from training.

    Args:
        model: its parameters' `requires_grad` becomes False where a pattern matches.
        patterns: regular expressions that must match whole parameter names, such as `backbone\..*`.

    Raises:
        ConfigError: naming all patterns that are broken or match no parameter; nothing is frozen then.
    """
    parameters = dict(model.named_parameters())
    names: list[str] = []
    faults: list[str] = []
    for pattern in patterns:
        try:
            names += _matches(pattern, parameters, "parameter")
        except ConfigError as error:
            faults.append(f"freeze: {error}")
    if faults:
        raise ConfigError("\n".join(faults))
    for name in names:
        parameters[name].requires_grad_(False)


def require_stated(model: nn.Module, patterns: list[str]) -> None:
    r"""Check that a config's `freeze` tells all that is not trained, also what a model freezes by itself.

    Args:
        model: after `freeze`.
        patterns: of the config.

    Raises:
        ConfigError: the model froze parts (a second stage its tokenizer, a student its teacher, a backbone itself) that
            no pattern names: leaving them out of `freeze` does not train them.
    """
    expressions = [re.compile(pattern) for pattern in patterns]
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    untold = [name for name in frozen if not any(expression.fullmatch(name) for expression in expressions)]
    if untold:
        parts = dict.fromkeys(name.partition(".")[0] for name in untold)
        hints = ", ".join(repr(rf"{part}\..*") for part in parts)
        trained = "; a backbone is trained by its argument trainable=True" if "backbone" in parts else ""
        raise ConfigError(
            f"freeze: {type(model).__name__} freezes {' and '.join(parts)} by itself ({len(untold)} parameters), and "
            f"`freeze` has to tell all that is not trained: add {hints}{trained}"
        )


def frozen_modules(model: nn.Module) -> set[nn.Module]:
    """Return every module, the model itself included, that has parameters and all of them frozen."""
    frozen: set[nn.Module] = set()
    seen: dict[nn.Module, tuple[bool, bool]] = {}  # module -> (has parameters, has trainable ones)

    def visit(module: nn.Module) -> tuple[bool, bool]:
        if module not in seen:
            own = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
            below = [visit(child) for child in module.children()]
            some = bool(own) or any(child_some for child_some, _ in below)
            trainable = any(own) or any(child_trainable for _, child_trainable in below)
            seen[module] = some, trainable
            if some and not trainable:
                frozen.add(module)
        return seen[module]

    visit(model)
    return frozen


def train_mode(model: nn.Module) -> None:
    """Put the model into train mode, but its fully frozen parts into eval mode: no dropout, no running statistics."""
    model.train()
    frozen = frozen_modules(model)
    remaining = [model]
    while remaining:
        module = remaining.pop()
        if module in frozen:
            module.eval()  # reaches everything below, parts without parameters too
        else:
            remaining += module.children()


def _materialise(params: Iterable[Any]) -> list[Any]:
    """Return parameters or groups of them as lists, so that they can be looked at twice."""
    return [
        {**entry, "params": [entry["params"]] if isinstance(entry["params"], torch.Tensor) else list(entry["params"])}
        if isinstance(entry, dict)
        else entry
        for entry in params
    ]


def _can_fuse(params: list[Any]) -> bool:
    """Tell whether PyTorch has a fused kernel for all parameters, given as such or in groups.

    On a CPU it takes a quarter of the time, and a twentieth where statistics get so small that they are denormal.
    """
    tensors: list[Any] = []
    for entry in params:
        tensors += entry["params"] if isinstance(entry, dict) else [entry]
    return all(
        isinstance(tensor, torch.Tensor) and tensor.device.type in ("cuda", "cpu") and tensor.is_floating_point()
        for tensor in tensors
    )


def _matches(pattern: str, names: Iterable[str], what: str) -> list[str]:
    """Return the names that a pattern matches as a whole.

    Raises:
        ConfigError: the pattern is broken or matches none; names near it are given.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{pattern!r} is no regular expression: {error}") from error
    matching = [name for name in names if expression.fullmatch(name)]
    if not matching:
        near = ", ".join(_near(pattern, names)) or "there are none"
        raise ConfigError(f"{pattern!r} matches no {what} as a whole name; near names: {near}")
    return matching


def _near(pattern: str, names: Iterable[str]) -> list[str]:
    """Return module and parameter names that resemble the pattern, otherwise those of the first level."""
    prefixes: dict[str, None] = {}  # a set that keeps the order
    for name in names:
        parts = name.split(".")
        prefixes |= dict.fromkeys(".".join(parts[:length]) for length in range(1, len(parts) + 1))
    literal = re.sub(r"\\(.)", r"\1", re.sub(r"\.[*+]|[\^$()?]", "", pattern)).rstrip(".")
    return difflib.get_close_matches(literal, prefixes, n=3) or [name for name in prefixes if "." not in name]
