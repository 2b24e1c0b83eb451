"""Read an entry of a batch or of a model's output by its path, such as `output.mask`."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from object_centric_bench.registry import ConfigError


def fetch(path: str, batch: Mapping[str, Any], output: Mapping[str, Any], entry: str = "path") -> Any:
    """Return what stands under a path.

    Args:
        path: `batch` or `output`, then keys of dicts and indices of lists, joined by dots: `output.feature.0`.
        batch: what the model was given.
        output: what the model returned.
        entry: the config entry that holds the path, such as `MSE.prediction`, for the message.

    Raises:
        ConfigError: nothing stands there; the message names the entry, the nearest path and all paths that exist.
    """
    node: Any = {"batch": batch, "output": output}
    for key in path.split("."):
        if isinstance(node, Mapping) and key in node:
            node = node[key]
        elif isinstance(node, (list, tuple)) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        else:
            raise ConfigError(f"{entry}: there is no {path!r}; {_hint(path, batch, output)}")
    return node


def fetch_tensor(path: str, batch: Mapping[str, Any], output: Mapping[str, Any], entry: str = "path") -> Tensor:
    """Return the tensor that stands under a path; see `fetch`.

    Raises:
        ConfigError: nothing stands there, or something that is no tensor.
    """
    node = fetch(path, batch, output, entry)
    if not isinstance(node, Tensor):
        raise ConfigError(
            f"{entry}: {path!r} is a {type(node).__name__}, not a tensor; {_hint(path, batch, output)}",
        )
    return node


def _hint(path: str, batch: Mapping[str, Any], output: Mapping[str, Any]) -> str:
    """Return the nearest path, if any is near, and all paths."""
    known = sorted(_paths({"batch": batch, "output": output}))
    near = difflib.get_close_matches(path, known, n=1)
    question = f"did you mean {near[0]!r}? " if near else ""
    return f"{question}paths that exist: {', '.join(known) if known else 'none'}"


def _paths(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the path of every leaf."""
    if isinstance(node, Mapping):
        items = [(str(key), child) for key, child in node.items()]
    elif isinstance(node, (list, tuple)):
        items = [(str(index), child) for index, child in enumerate(node)]
    else:
        yield prefix
        return
    for key, child in items:
        yield from _paths(child, f"{prefix}.{key}" if prefix else key)
