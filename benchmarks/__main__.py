"""Run the short benchmarks and print one table: python -m benchmarks [NAME ...] [--rounds 5] [--device cpu]

The ratio is more than 1 where we are better than the floor; a floor is the least possible, a limit, or a plain way to
do the same, as its name says. Each module runs in a process of its own, so that its threads and memory are its own.
"""

import argparse
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.table import Options, markdown, run


def names() -> list[str]:
    """Return the modules of this package that have a function `lines`; importing all would take seconds."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [file.stem for file in files if re.search(r"^def lines\(", file.read_text("utf-8"), re.MULTILINE)]


def main() -> int:
    """Print the table; return 1 if a benchmark failed, whether or not targets are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    known = names()
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)} [all]")
    parser.add_argument("--rounds", type=int, default=Options().rounds, help="repetitions of each timing [5]")
    parser.add_argument("--device", default=Options().device, help="of models and metrics [cpu]")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in known]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    lines, failed = [], []
    for name in arguments.names or known:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
            try:
                lines += executor.submit(run, name, Options(arguments.rounds, arguments.device)).result()
            except Exception as error:  # the others still run
                failed.append(f"{name} failed: {type(error).__name__}: {error}")
    print(markdown(lines))
    print(*failed, sep="\n", end="\n" if failed else "", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
