"""Train and score configs over seeds and print the table; `compare`: how surely two configs differ.

What is there already is not run again: repeat it to go on. Runs go in turn, or one on every GPU.
"""

import logging
import shlex
import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

from .. import commandline
from ..console import bar, say
from ..files import DISK, replacing
from ..registry import ConfigError
from .compare import compare, report
from .plan import Job, plan
from .runner import RESUMABLE, run
from .scores import METRICS, comma_separated, latex, markdown, read, table

TRAIN = Path(__file__).resolve().parent.parent.parent / "train.py"
EXAMPLES = """examples:
  python -m object_centric_bench.grid config-demo/vvo_mlp-shapes.py config-demo/spot-shapes.py
  python -m object_centric_bench.grid config-*/*_r-coco.py --seeds 42 43 44 --published
  python -m object_centric_bench.grid compare config-spot/spot_r-coco.py config-spot/spot_r-voc.py
exit codes: 0 done, 2 something failed, 3 stopped and resumable, 130 interrupted at once"""


def is_override(text: str) -> bool:
    """Tell `key=value` from a config file, whose path may hold "=" too, behind the name of a folder."""
    name, equals, _ = text.partition("=")
    return bool(equals) and "/" not in name


def seed_or_override(text: str) -> int | str:
    """Return one of the words behind `--seeds`: the option takes all that follows, overrides too.

    Raises:
        ArgumentTypeError: it is neither.
    """
    if is_override(text):
        return text
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no whole number; configs stand before the seeds") from None


def parse(arguments: list[str]) -> Namespace:
    """Return the command line's options, `files` and `overrides` among them."""
    parser = commandline.parser(__doc__, EXAMPLES)
    parser.prog = "python -m object_centric_bench.grid [compare]"
    add = parser.add_argument
    add("configs", nargs="+", metavar="CONFIG | key=value", help="configs; knobs or leaves that all of them have")
    add("--seeds", type=seed_or_override, nargs="+", default=[42, 43, 44], metavar="N", help="(default: 42 43 44)")
    add("--data_dir", metavar="DIR", default="data", help="folder of the converted datasets (default: data)")
    add("--save_dir", metavar="DIR", default="save", help="folder of all runs (default: save)")
    add("--out", metavar="DIR", help="where table.md, .tex and .csv go (default: grid/ in --save_dir)")
    add("--published", action="store_true", help="put the authors' scores beside ours")
    add("--train_options", default="", metavar="TEXT", help='of train.py: --train_options="--time_limit 3h"')
    add("--dry_run", action="store_true", help="only say what would be run")
    commandline.add_level(parser)
    options = commandline.parse(parser, arguments)
    options.files = [Path(text) for text in options.configs if not is_override(text)]
    options.overrides = [text for text in options.configs if is_override(text)]
    options.overrides += [word for word in options.seeds if isinstance(word, str)]
    options.seeds = [word for word in options.seeds if isinstance(word, int)]
    if not options.files:
        parser.error("name one config at least")
    if not options.seeds:
        parser.error("argument --seeds: name one seed at least")
    return options


def main(arguments: list[str]) -> int:
    """Run; return the exit code: 0 done, 2 something failed, 3 stopped and resumable, 130 interrupted."""
    comparing = arguments[:1] == ["compare"]
    options = parse(arguments[comparing:])
    logging.basicConfig(format="%(message)s")
    logging.getLogger("object_centric_bench").setLevel(options.level)
    files, save_dir = options.files, Path(options.save_dir)
    try:
        if not TRAIN.is_file():
            raise ConfigError(f"{TRAIN} is missing: a grid runs from a checkout of the project (pip install -e .)")
        jobs = plan(files, options.seeds, options.overrides)
        if comparing:
            return print_comparison([job for job in jobs if job.scored], files, save_dir)
        if options.dry_run:
            print("\n".join(str(job) for job in jobs))
            return 0
        outcome = run(jobs, TRAIN, Path(options.data_dir), save_dir, shlex.split(options.train_options))
        made = table(jobs, save_dir, options.published)
        out = Path(options.out) if options.out else save_dir / "grid"
        for name, text in (("md", markdown(made)), ("tex", latex(made)), ("csv", comma_separated(made))):
            with replacing(out / f"table.{name}") as file:
                file.write_text(text)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in DISK:
            raise
        print(f"error: {error.filename}: {error.strerror}; free some room, the same command goes on", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    print(markdown(made), end="")
    say(f"\nthe same as LaTeX and CSV: {out}")
    for message in outcome.failed:
        print(f"error: {message}", file=sys.stderr)
    return RESUMABLE if outcome.interrupted else 2 if outcome.failed else 0


def print_comparison(jobs: list[Job], files: list[Path], save_dir: Path) -> int:
    """Compare two configs over the seeds that were run of both; return the exit code.

    Raises:
        ConfigError: not two configs, no seed that both have, or scores that cannot be compared.
    """
    if len(files) != 2:
        raise ConfigError(f"compare takes two configs, got {len(files)}")
    by_seed: dict[int, list[Job]] = {}
    for job in jobs:
        if (job.folder(save_dir) / "eval" / "eval.json").is_file():
            by_seed.setdefault(job.seed, []).append(job)
    pairs = [sorted(found, key=lambda job: files.index(job.cfg_file)) for found in by_seed.values() if len(found) == 2]
    if not pairs:
        raise ConfigError(
            f"no seed of both was trained and scored below {save_dir}; run the grid without compare first"
        )
    first, second = ([read(pair[side], save_dir)["images"] for pair in pairs] for side in (0, 1))
    try:
        metrics = [metric for metric in METRICS if metric in first[0][0]]
        shown = bar(metrics, "compare", unit="score", leave=False)
        results = {metric: compare(first, second, metric) for metric in shown}
    except ValueError as error:
        raise ConfigError(f"{files[0].name} and {files[1].name}: {error}") from error
    print(report((files[0].stem, files[1].stem), results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
