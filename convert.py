"""Make the LMDB files of a dataset from its official download, look into such files, or bring published ones up to date

python convert.py coco --src_dir RAW --dst_dir data/coco
python convert.py inspect data/coco/val.lmdb --pictures out
python convert.py upgrade downloaded/val.lmdb data/voc/val.lmdb --labels merged
"""

import argparse
import inspect
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

from object_centric_bench import commandline
from object_centric_bench.datum import clevrtex, coco, inspection, movi, moving_shapes, shapes, upgrade, voc
from object_centric_bench.datum.record import DataError

# A dataset is a module with `SOURCE`, what to download and how to unpack it, and `convert(...)`, whose arguments become
# the flags and whose docstring explains them.
DATASETS = {each.__name__.split(".")[-1]: each for each in (clevrtex, coco, voc, movi, shapes, moving_shapes)}
TOOLS: dict[str, Callable[..., Any]] = {"inspect": inspection.inspect, "upgrade": upgrade.upgrade}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser with a sub-command per dataset and per tool."""
    raw = argparse.RawDescriptionHelpFormatter  # keeps the lines of a text
    sources = "\n".join(f"{name}\n{'-' * len(name)}\n{module.SOURCE}" for name, module in DATASETS.items())
    parser = argparse.ArgumentParser(
        prog="convert.py", description=__doc__, epilog=sources, formatter_class=raw, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    functions = {name: module.convert for name, module in DATASETS.items()} | TOOLS
    for name, function in functions.items():
        summary = inspect.getdoc(function).partition("\n")[0].replace("`", "")
        epilog = DATASETS[name].SOURCE if name in DATASETS else ""
        command = commands.add_parser(
            name, help=summary, description=summary, epilog=epilog, formatter_class=raw, allow_abbrev=False
        )
        command.set_defaults(function=function)
        add_arguments(command, function)
    return parser


def add_arguments(parser: argparse.ArgumentParser, function: Callable[..., Any]) -> None:
    """Add a flag per argument of a function, as its signature and docstring describe them."""
    explained = dict(re.findall(r"^ +(\w+): (.+(?:\n {12,}.+)*)$", function.__doc__, flags=re.MULTILINE))
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        text = re.sub(r"\s+", " ", explained[name]).replace("%", "%%").replace("`", "")
        choices = _choices(parameter.annotation)
        if parameter.kind is parameter.POSITIONAL_ONLY:
            parser.add_argument(name, metavar=name.upper(), help=text)
        elif default is False:
            parser.add_argument(f"--{name}", action="store_true", help=text)
        elif default is parameter.empty:
            parser.add_argument(f"--{name}", required=True, help=text)
        elif isinstance(default, tuple):
            parser.add_argument(f"--{name}", nargs="+", choices=choices or default, default=default, help=text)
        elif name == "workers":
            parser.add_argument(f"--{name}", type=int, default=os.cpu_count(), help=f"{text} [all cores]")
        else:
            kind = str if choices or "str" in str(parameter.annotation) else int
            shown = text if default is None else f"{text} [{default}]"
            parser.add_argument(f"--{name}", type=kind, default=default, choices=choices, help=shown)


def _choices(annotation: Any) -> tuple | None:
    """Return the values of `Literal[...]`, also of `Literal[...] | None` and `tuple[Literal[...], ...]`."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    found = [_choices(part) for part in get_args(annotation)]
    return next((choices for choices in found if choices), None)


def main(arguments: list[str]) -> int:
    """Run a command; return the exit code: 0, 2 for anything the user can set right, 130 after Ctrl-C."""
    options = vars(make_parser().parse_args(commandline.spelled(arguments)))
    function = options.pop("function")
    options.pop("command")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that workers are ended in order
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    names = inspect.signature(function).parameters.values()
    positional = [options.pop(each.name) for each in names if each.kind is each.POSITIONAL_ONLY]
    try:
        function(*positional, **options)
    except DataError as error:
        print(f"convert.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("convert.py: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
