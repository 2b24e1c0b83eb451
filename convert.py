"""Make the LMDB files of a dataset from its official download, or inspect or upgrade such files.

What to download for a dataset and where to unpack it: python convert.py coco --help
"""

import argparse
import importlib
import inspect
import logging
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from object_centric_bench import commandline

# A dataset is a module of `datum` with `SOURCE`, what to download and how to unpack it, and `convert(...)`, whose
# arguments become the flags and whose docstring explains them.
DATASETS = ("clevrtex", "coco", "voc", "movi", "shapes", "moving_shapes")
COMMANDS = {name: (name, "convert") for name in DATASETS}  # name -> module and function
COMMANDS |= {"inspect": ("inspection", "inspect"), "upgrade": ("upgrade", "upgrade")}
EXAMPLES = {name: f"--src_dir RAW --dst_dir data/{name}" for name in ("clevrtex", "coco", "voc")}
EXAMPLES |= {
    "movi": "--src_dir RAW/movi_d --dst_dir data/movi_d",
    "shapes": "--dst_dir data/shapes",
    "moving_shapes": "--dst_dir data/moving_shapes --frames 12",
    "inspect": "data/coco/val.lmdb --pictures out",
    "upgrade": "downloaded/val.lmdb data/voc/val.lmdb --labels merged",
}
EXIT_CODES = "exit codes: 0 done, 2 something to set right, 130 interrupted; the same command goes on"


def load(name: str) -> Callable[..., Any]:
    """Return a command's function."""
    module, function = COMMANDS[name]
    return getattr(importlib.import_module(f"object_centric_bench.datum.{module}"), function)


def make_parser(chosen: str | None) -> argparse.ArgumentParser:
    """Return the parser with a sub-command per dataset and per tool, of which the chosen one has its arguments."""
    raw = partial(argparse.RawDescriptionHelpFormatter, width=100)  # keeps the lines of a text
    folder = Path(__file__).parent / "object_centric_bench" / "datum"
    described = {
        name: commandline.describe(folder / f"{module}.py", function) for name, (module, function) in COMMANDS.items()
    }
    examples = {name: f"example: python convert.py {name} {rest}" for name, rest in EXAMPLES.items()}
    ends = "\n".join(["examples:", *(text.replace("example:", " ") for text in examples.values()), EXIT_CODES])
    parser = argparse.ArgumentParser(
        prog="convert.py", description=__doc__, epilog=ends, formatter_class=raw, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, source) in described.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog="\n".join(filter(None, [examples[name], source.rstrip()])),
            formatter_class=raw,
            allow_abbrev=False,
        )
        if name == chosen:
            commandline.add_arguments(command, load(name))
            commandline.add_level(command)
    return parser


def main(arguments: list[str]) -> int:
    """Run a command; return the exit code: 0, 2 for anything the user can set right, 130 after Ctrl-C."""
    chosen = next((argument for argument in arguments if argument in COMMANDS), None)
    options = vars(make_parser(chosen).parse_args(commandline.spelled(arguments)))
    function, level = load(options.pop("command")), options.pop("level")
    from object_centric_bench.datum.record import DataError

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that workers are ended in order
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("object_centric_bench").setLevel(level)
    names = inspect.signature(function).parameters.values()
    positional = [options.pop(each.name) for each in names if each.kind is each.POSITIONAL_ONLY]
    try:
        function(*positional, **options)
    except DataError as error:
        if level <= logging.DEBUG:
            traceback.print_exc()
        print(f"convert.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("convert.py: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
