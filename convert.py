"""Make the LMDB files of a dataset from its official download: python convert.py DATASET --src_dir RAW --dst_dir OUT"""

import argparse
import inspect
import os
import re
import signal
import sys
from types import ModuleType

from object_centric_bench import commandline
from object_centric_bench.datum import coco, shapes
from object_centric_bench.datum.record import DataError

# A dataset is a module with `SOURCE`, what to download and how to unpack it, and `convert(...)`, whose arguments become
# the flags and whose docstring explains them.
DATASETS = {"coco": coco, "shapes": shapes}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser with one sub-command per dataset."""
    parser = argparse.ArgumentParser(prog="convert.py", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="dataset", required=True, metavar="{" + ",".join(DATASETS) + "}")
    for name, module in DATASETS.items():
        summary = inspect.getdoc(module.convert).partition("\n")[0].replace("`", "")
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=module.SOURCE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add_arguments(command, module)
    return parser


def add_arguments(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    """Add a flag per argument of the module's `convert`."""
    explained = dict(re.findall(r"^ +(\w+): (.+)$", module.convert.__doc__, flags=re.MULTILINE))
    for name, parameter in inspect.signature(module.convert).parameters.items():
        default = parameter.default
        text = explained[name].replace("%", "%%")
        if default is False:
            parser.add_argument(f"--{name}", action="store_true", help=text)
        elif default is parameter.empty:
            parser.add_argument(f"--{name}", required=True, help=text)
        elif isinstance(default, tuple):
            parser.add_argument(f"--{name}", nargs="+", choices=default, default=default, help=text)
        else:
            default = os.cpu_count() if name == "workers" else default
            kind = int if default is None else type(default)
            parser.add_argument(f"--{name}", type=kind, default=default, help=f"{text} [{default}]")


def main(arguments: list[str]) -> int:
    """Convert; return the exit code: 0, 2 for anything the user can set right, 130 after Ctrl-C."""
    options = vars(make_parser().parse_args(commandline.spelled(arguments)))
    module = DATASETS[options.pop("dataset")]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that unfinished files are removed
    try:
        module.convert(**options)
    except DataError as error:
        print(f"convert.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("convert.py: interrupted; files written before are whole, the unfinished one is removed", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
