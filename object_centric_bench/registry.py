"""Names to classes: register them, find every fault of a config, build objects from it. Standard library only."""

import difflib
import inspect
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

CLASSES: dict[str, type] = {}  # filled by @register while the package's files are imported, read-only afterwards

Class = TypeVar("Class", bound=type)


class ConfigError(ValueError):
    """A config or command line that cannot be used; the text names every fault by its config path."""


def register(cls: Class) -> Class:
    """Make a class available to configs under its own name.

    Raises:
        ValueError: the name is taken, or the constructor has `*args` or `**kwargs`, which would hide typos.
    """
    known = CLASSES.get(cls.__name__)
    if known is not None and known.__module__ != cls.__module__:
        raise ValueError(f"{cls.__name__} is registered already, by {known.__module__}")
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ValueError(f"{cls.__name__} takes {parameter}: name the arguments, so that configs can be checked")
    CLASSES[cls.__name__] = cls
    return cls


def suggest(word: str, known: Iterable[str]) -> str:
    """Return "did you mean ..." for a near miss, otherwise the names there are."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    more = f", ... ({len(known) - 20} more)" if len(known) > 20 else ""
    return f"known: {', '.join(known[:20])}{more}" if known else "nothing is known here"


def children(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield the (key, value) pairs of a dict or list; nothing for a leaf."""
    if isinstance(node, dict):
        yield from ((str(key), value) for key, value in node.items())
    elif isinstance(node, list):
        yield from ((str(index), value) for index, value in enumerate(node))


def faults(node: Any, path: str, runtime: Mapping[str, Iterable[str]] = MappingProxyType({})) -> Iterator[str]:
    """Yield a message per unknown class, unknown, missing or mistyped argument; build nothing.

    Args:
        node: a config: dict, list or leaf.
        path: where the node stands in the whole config, such as `model.decoder`; "" for the root.
        runtime: for a node's path, the arguments of its class that come from the program and not from the config.
    """
    for key, child in children(node):
        yield from faults(child, f"{path}.{key}" if path else key, runtime)
    if not isinstance(node, dict) or "type" not in node:
        return
    cls = CLASSES.get(node["type"]) if isinstance(node["type"], str) else None
    if cls is None:
        yield f"{path}.type: no class {node['type']!r}; {suggest(str(node['type']), CLASSES)}"
        return
    parameters = inspect.signature(cls).parameters
    given = set(runtime.get(path, ()))
    allowed = parameters.keys() - given
    for key in sorted(node.keys() - allowed - {"type"}):
        yield f"{path}.{key}: {cls.__name__} takes no {key!r}; {suggest(key, allowed)}"
    required = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
    for key in sorted(required - node.keys() - given):
        yield f"{path}.{key}: missing, {cls.__name__} requires it"
    hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]  # of the class itself, not of an instance
    for key in sorted(allowed & node.keys() & hints.keys()):
        if not fits(node[key], hints[key]):
            yield f"{path}.{key}: {cls.__name__} wants {describe(hints[key])}, got {node[key]!r}"


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a config value can be an argument of the annotated type; what is not a plain type always fits."""
    if isinstance(value, dict) and "type" in value:  # becomes an object; its own class checks it
        return True
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, member) for member in typing.get_args(hint))
    if origin in (list, tuple, typing.Sequence):
        members = typing.get_args(hint)
        return isinstance(value, (list, tuple)) and all(fits(item, members[0]) for item in value if members)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, list, dict, type(None)):
        return isinstance(value, hint)
    return True


def describe(hint: Any) -> str:
    """Return the readable name of a type annotation."""
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def check(node: Any, path: str, runtime: Mapping[str, Iterable[str]] = MappingProxyType({})) -> None:
    """Raise `ConfigError` naming every fault of the node, one per line; return if there is none."""
    found = list(faults(node, path, runtime))
    if found:
        raise ConfigError("\n".join(found))


def build(node: Any, path: str, **runtime: Any) -> Any:
    """Construct what a config describes, depth first.

    Args:
        node: a dict with `type` becomes an object, any other dict or list the same with its items built, a leaf itself.
        path: where the node stands in the whole config, for messages.
        runtime: further arguments of the node's own class, which no config can hold (`params=...`).

    Raises:
        ConfigError: the node has faults (all are named), or a constructor refused its arguments.
    """
    check(node, path, {path: runtime})
    return _construct(node, path, runtime)


def _construct(node: Any, path: str, runtime: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_construct(child, f"{path}.{key}", {}) for key, child in children(node)]
    if not isinstance(node, dict):
        return node
    arguments = {key: _construct(child, f"{path}.{key}", {}) for key, child in node.items() if key != "type"}
    if "type" not in node:
        return arguments
    try:
        return CLASSES[node["type"]](**arguments, **runtime)
    except ConfigError:
        raise
    except ValueError as error:  # the class says what is wrong; the config path says where
        raise ConfigError(f"{path}: {error}") from error
