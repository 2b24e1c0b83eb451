"""Config files: load one by path, override, show, compare. Standard library only, so reading a config imports no torch.

A config file is trusted Python: it has one public function `config(knobs) -> dict` and is run when loaded.
"""

import argparse
import ast
import hashlib
import importlib.util
import inspect
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from .registry import ConfigError, children, suggest

DEFINED = r"^(def config\(|config = )"  # what makes a Python file a config file

DEFAULTS = {
    "metric": [],
    "metric_every": 100,  # steps between two measurements on training batches
    "callback": [],
    "schedule": {},
    "freeze": [],  # regular expressions that match whole parameter names
    "parameter_groups": None,
    "pretrain": None,
    "max_grad_norm": 1.0,
    "grad_norm_type": 2.0,  # 2 the Euclidean norm, "inf" the largest gradient
    "accumulate": 1,  # pieces in which a batch goes through the model, to need less memory; the gradient is the same
    "micro_batch": None,  # or: samples of such a piece, per process; "auto" finds the largest that fits
    "max_not_finite": 20,  # steps in a row that are skipped because loss or gradient is NaN or Inf, before giving up
    "find_unused_parameters": False,  # with several processes: some trained parameters get no gradient in some steps
    "precision": "auto",
    "compile": False,  # by torch.compile: minutes before the first step, then faster ones
    "deterministic": False,  # on CUDA: the same bits in every run, by slower kernels and without TF32
    "cache_feature": False,  # compute the frozen backbone's features once; for splits that are not augmented
    "cache_eval": False,  # the same for the eval split only, and a frozen tokenizer's codes
    "cache_dtype": "float16",  # of what is kept, float32 is rounded to it; or "float32"
    "cache_gigabytes": 20.0,  # kept at most, in all; the least recently used goes first
}


def load(file: str | Path, overrides: list[str] | None = None, **knobs: Any) -> dict:
    """Return the resolved config of a file, with the defaults of sections it leaves out.

    Args:
        file: path of the config file.
        overrides: `key=value` texts from a command line; `key` is a knob of the file or the path of an existing leaf.
        knobs: arguments for the file's `config` function, given by a program.

    Raises:
        ConfigError: no such file, it does not run, or overrides do not fit (all faults are named at once).
    """
    file = Path(file)
    function = _function(file)
    allowed = inspect.signature(function).parameters
    found = [f"{file}: config() takes no {key!r}; {suggest(key, allowed)}" for key in knobs.keys() - allowed.keys()]
    values = {}
    for text in overrides or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            found.append(f"{text!r}: an override is written key=value")
        elif key in allowed:
            default = allowed[key].default
            try:
                knobs[key] = parse(value, None if default is inspect.Parameter.empty else default)
            except ValueError as error:
                found.append(f"{key}: {error}")
        else:
            values[key] = value
    if found:
        raise ConfigError("\n".join(found))
    cfg = _call(function, file, knobs)
    found = list(_not_plain(cfg, ""))
    if not found:
        cfg |= {key: value for key, value in DEFAULTS.items() if key not in cfg}
        cfg = json.loads(json.dumps(cfg))  # a part that one dict object stands for twice becomes two
        found = list(_override(cfg, values, list(allowed)))
    if found:
        raise ConfigError("\n".join(f"{file}: {message}" for message in found))
    return cfg


def override(cfg: dict, overrides: list[str]) -> dict:
    """Return a copy of a resolved config with `path=value` texts applied to its leaves.

    Raises:
        ConfigError: overrides do not fit (all faults are named).
    """
    cfg = json.loads(json.dumps(cfg))
    values = dict(text.partition("=")[::2] for text in overrides)
    found = list(_override(cfg, values, []))
    if found:
        raise ConfigError("\n".join(found))
    return cfg


def _function(file: Path) -> Any:
    if not file.is_file():
        folder = file.parent
        files = sorted(folder.glob("*.py"))
        there = [str(path) for path in files if re.search(DEFINED, path.read_text(errors="replace"), re.MULTILINE)]
        if there:
            raise ConfigError(f"no config file {str(file)!r}; {suggest(str(file), there)}")
        raise ConfigError(f"no config file {str(file)!r}, and no config files in {str(folder)!r}")
    # a name made from the folder keeps files of equal stem apart and lets them share `_parts.py`
    package = "config_" + hashlib.sha256(str(file.resolve().parent).encode()).hexdigest()[:16]
    if package not in sys.modules:
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(file.resolve().parent)]
    name = f"{package}.{''.join(c if c.isalnum() else '_' for c in file.stem)}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is no Python file: the name of a config ends with .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(_where(error, file)) from error
    function = getattr(module, "config", None)
    if not inspect.isfunction(function):
        raise ConfigError(f"{file}: a config file has a function config(knobs) -> dict; this one has none")
    return function


def _call(function: Any, file: Path, knobs: dict[str, Any]) -> dict:
    try:
        cfg = function(**knobs)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(_where(error, file)) from error
    if not isinstance(cfg, dict):
        raise ConfigError(f"{file}: config() returned {type(cfg).__name__}, not a dict")
    return cfg


def _where(error: Exception, file: Path) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{file}: {type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"


def parse(text: str, present: Any) -> Any:
    """Return the value of an override: a Python literal; plain text too where text (or nothing) stands at present.

    Raises:
        ValueError: not a literal, or of another type than the present value.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        if present is None or isinstance(present, str):
            return text
        raise ValueError(f"{text!r} is no Python literal (now: {present!r})") from None
    value = _without_tuples(value)
    if isinstance(present, str) and not isinstance(value, str) and value is not None:
        return text  # a name that happens to read like a number
    if unfit := next(_not_plain(value, repr(text)), None):
        raise ValueError(unfit)
    same = isinstance(value, type(present)) or (isinstance(present, float) and type(value) is int)
    if present is None or value is None or (same and isinstance(value, bool) == isinstance(present, bool)):
        return value
    raise ValueError(f"{text!r} is {type(value).__name__}, the present value {present!r} is {type(present).__name__}")


def _without_tuples(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_without_tuples(entry) for entry in value]
    return {key: _without_tuples(entry) for key, entry in value.items()} if isinstance(value, dict) else value


def _override(cfg: dict, values: dict[str, str], knobs: list[str]) -> Iterator[str]:
    known = dict(leaves(cfg))
    for path, text in values.items():
        parent: Any = cfg
        last = path
        while path not in known and "." in last:  # descend as far as keys exist, to find leaves inside lists
            step, last = last.split(".", 1)
            parent = dict(children(parent)).get(step)
        if path not in known and not (isinstance(parent, list) and last in dict(children(parent))):
            yield f"{path}: neither a knob nor a leaf of this config; {suggest(path, [*knobs, *known])}"
            continue
        try:
            _set(cfg, path.split("."), text)
        except ValueError as error:
            yield f"{path}: {error}"


def _set(node: Any, steps: list[str], text: str) -> None:
    for step in steps[:-1]:
        node = node[int(step)] if isinstance(node, list) else node[step]
    key = int(steps[-1]) if isinstance(node, list) else steps[-1]
    node[key] = parse(text, node[key])


def _not_plain(node: Any, path: str) -> Iterator[str]:
    if isinstance(node, dict):
        for key, child in node.items():
            if not isinstance(key, str):
                yield f"{path}: key {key!r} is {type(key).__name__}, keys are text"
            yield from _not_plain(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for key, child in children(node):
            yield from _not_plain(child, f"{path}.{key}")
    elif not (node is None or type(node) in (bool, int, float, str)):
        yield f"{path}: a {type(node).__name__} cannot stand in a config; use dict, list, str, int, float, bool, None"


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of every leaf; a list without dicts in it counts as one leaf, so does an empty dict."""
    nested = isinstance(node, dict) or (isinstance(node, list) and any(isinstance(item, (dict, list)) for item in node))
    if not nested or not node:
        yield path, node
        return
    for key, child in children(node):
        yield from leaves(child, f"{path}.{key}" if path else key)


def show(cfg: dict) -> list[str]:
    """Return the config as lines `path = value`, one leaf each, so that two configs can be compared line by line."""
    return [f"{path} = {value!r}" for path, value in leaves(cfg)]


def diff(old: dict, new: dict) -> list[str]:
    """Return the leaves that differ, as lines `- path = value` and `+ path = value`."""
    before, after = dict(leaves(old)), dict(leaves(new))
    lines = []
    for path in [*before, *(path for path in after if path not in before)]:
        if path in before and path in after and before[path] == after[path]:
            continue
        lines += [f"- {path} = {before[path]!r}"] if path in before else []
        lines += [f"+ {path} = {after[path]!r}"] if path in after else []
    return lines


def fingerprint(cfg: dict) -> str:
    """Return a short hash that two configs share exactly when they are equal."""
    return hashlib.sha256(json.dumps(cfg, sort_keys=True).encode()).hexdigest()[:16]


def print_lines(lines: list[str]) -> None:
    """Print lines; a reader that has seen enough, such as `head`, may close the pipe."""
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:  # what is left in the buffer goes nowhere, otherwise the interpreter fails at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


PROGRAM = "python -m object_centric_bench.config"
EXAMPLES = {
    "show": f"  {PROGRAM} show config-dinosaur/dinosaur_r-coco.py resolution=384",
    "diff": f"  {PROGRAM} diff config-spot/spot_r-coco.py config-spot/spot_r-voc.py",
}


def main(arguments: list[str] | None = None) -> int:
    """Run `python -m object_centric_bench.config show FILE [key=value ...]` or `... diff FILE FILE [key=value ...]`."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Print a config, a line per leaf, or the leaves in which two configs differ.",
        epilog="\n".join(["examples:", *EXAMPLES.values()]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, files, text in (("show", 1, "print every leaf of a config"), ("diff", 2, "print the leaves that differ")):
        command = commands.add_parser(
            name,
            help=text,
            description=f"{text.capitalize()}.",
            epilog=f"example:\n{EXAMPLES[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("files", nargs=files, metavar="FILE")
        command.add_argument("overrides", nargs="*", metavar="key=value", help="applied to the last file")
    options = parser.parse_args(arguments)
    try:
        configs = [load(file) for file in options.files[:-1]] + [load(options.files[-1], options.overrides)]
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_lines(show(configs[0]) if options.command == "show" else diff(*configs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
