"""Search for inputs that reach new code, by atheris (libFuzzer), in what reads files from outside and is pure Python.

    pip install atheris
    python -m benchmarks.fuzz_coverage NAME [--runs 100000] [--seed 1]

NAME is a target of `benchmarks.fuzz`. It ends at the first exception that is not ours, input above 5 seconds, or 2 GB.
"""

import argparse
import importlib
import logging
import sys
import tempfile
import warnings
from pathlib import Path

READERS = ["config", "datum.unpickle", "datum.tfrecord", "datum.record", "datum.pages", "datum.lmdb", "datum.cache"]


def main() -> int:
    """Search in one target; libFuzzer prints its findings and ends the process."""
    try:
        import atheris  # optional: installed for this benchmark only
    except ImportError:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_coverage", description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="of the target")
    parser.add_argument("--runs", type=int, default=100_000, help="inputs [100000]")
    parser.add_argument("--seed", type=int, default=1, help="of the changes [1]")
    arguments = parser.parse_args()
    with atheris.instrument_imports(include=[f"object_centric_bench.{name}" for name in READERS]):
        for name in READERS:
            importlib.import_module(f"object_centric_bench.{name}")
    from benchmarks.fuzz_targets import REFUSED, TARGETS

    if arguments.name not in TARGETS:
        parser.error(f"no target {arguments.name!r}; there are {', '.join(TARGETS)}")
    warnings.simplefilter("ignore")
    logging.disable()
    target = TARGETS[arguments.name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for part in ("seeds", "corpus"):
            (folder / part).mkdir()
        for number, seed in enumerate(target.seeds(folder / "seeds")):
            (folder / "corpus" / str(number)).write_bytes(seed)

        def attempt(data: bytes) -> None:
            try:
                target.attempt(bytes(data), folder)
            except REFUSED:
                return

        limits = ["-timeout=5", "-rss_limit_mb=2048", f"-runs={arguments.runs}", f"-seed={arguments.seed}"]
        atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", str(folder / "corpus")], attempt)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
