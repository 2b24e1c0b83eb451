"""What the command lines share: flags in both spellings, and options that mean the same everywhere."""

import argparse
import ast
import inspect
import logging
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

UNITS = (86400, 3600, 60, 1)  # seconds of d, h, m, s


def parser(description: str, examples: str) -> argparse.ArgumentParser:
    """Return a parser that shows its description and examples as they are written."""
    raw = partial(argparse.RawDescriptionHelpFormatter, width=100)
    return argparse.ArgumentParser(description=description, epilog=examples, formatter_class=raw, allow_abbrev=False)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that runs a model."""
    add = parser.add_argument
    add("--seed", metavar="N", type=int, default=42, help="fixes weights, data order and all noise (default: 42)")
    add("--device", metavar="NAME", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--cache_dir", metavar="DIR", help="of cache_feature and cache_eval (default: save/cache)")
    parser.add_argument("--viz", type=int, default=8, metavar="N", help="images to draw at the end (default: 8)")
    add_level(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="knobs or leaves of the config")


def add_level(parser: argparse.ArgumentParser) -> None:
    """Add `--quiet` and `--verbose`, which set `level`, that of the package's logging."""
    level = parser.add_mutually_exclusive_group()
    add = partial(level.add_argument, dest="level", action="store_const", default=logging.INFO)
    add("--quiet", const=logging.WARNING, help="show warnings, errors and results only")
    add("--verbose", const=logging.DEBUG, help="show details too, and where errors of use are found")


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Return the options; flags may be spelled in both ways, and overrides may stand anywhere between them."""
    return parser.parse_intermixed_args(spelled(arguments))


def spelled(arguments: list[str]) -> list[str]:
    """Return the arguments with every flag spelled by underscores: `--cfg-file` means `--cfg_file`."""
    split = [argument.partition("=") for argument in arguments]
    return [_underscores(name) + equals + value for name, equals, value in split]


def _underscores(name: str) -> str:
    return "--" + name[2:].replace("-", "_") if name.startswith("--") else name


def count(text: str) -> int:
    """Return a whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, 1 or more")
    return int(text)


def duration(text: str) -> float:
    """Return the seconds of a duration such as `3h50m`, `90m`, `1d12h` or `600`.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text)
    seconds = sum(int(n or 0) * unit for n, unit in zip(match.groups(), UNITS, strict=True)) if match else 0
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration above 0; write 3h50m, 90m, or a number of seconds")
    return float(seconds)


def describe(file: Path, function: str) -> tuple[str, str]:
    """Return the first line of the docstring of a module's function, and its text `SOURCE` ("" without), unimported.

    Importing it would import PyTorch, which takes seconds that a help text is not worth.
    """
    summary, source = "", ""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            summary = (ast.get_docstring(node) or "").partition("\n")[0].replace("`", "")
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "SOURCE":
            source = ast.literal_eval(node.value)
    return summary, source


def add_arguments(parser: argparse.ArgumentParser, function: Callable[..., Any]) -> None:
    """Add a flag per argument of a function, as its signature and docstring describe them."""
    explained = dict(re.findall(r"^ +(\w+): (.+(?:\n {12,}.+)*)$", function.__doc__ or "", flags=re.MULTILINE))
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        text = re.sub(r"\s+", " ", explained[name]).replace("%", "%%").replace("`", "")
        choices = _choices(parameter.annotation)
        if parameter.kind is parameter.POSITIONAL_ONLY:
            parser.add_argument(name, metavar=name.upper(), help=text)
        elif default is False:
            parser.add_argument(f"--{name}", action="store_true", help=text)
        elif default is parameter.empty:
            parser.add_argument(f"--{name}", metavar="DIR", required=True, help=text)
        elif isinstance(default, tuple):
            known = choices or default
            parser.add_argument(f"--{name}", nargs="+", metavar="NAME", choices=known, default=default, help=text)
        elif name == "workers":
            text = f"{text} [all cores]"
            parser.add_argument(f"--{name}", metavar="N", type=int, default=os.cpu_count(), help=text)
        else:
            kind = str if choices or "str" in str(parameter.annotation) else int
            metavar = "N" if kind is int else None
            shown = text if default is None else f"{text} [{default}]"
            parser.add_argument(f"--{name}", type=kind, metavar=metavar, default=default, choices=choices, help=shown)


def _choices(annotation: Any) -> tuple | None:
    """Return the values of `Literal[...]`, also of `Literal[...] | None` and `tuple[Literal[...], ...]`."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    found = [_choices(part) for part in get_args(annotation)]
    return next((choices for choices in found if choices), None)
