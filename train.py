"""Train a config, score its best checkpoint and write a report; without arguments, the whole demo."""

import argparse
import sys
from pathlib import Path

from object_centric_bench import commandline, config
from object_centric_bench.registry import ConfigError

DEMO = "config-demo/vvo_mlp-shapes.py"
EXAMPLES = """examples:
  python train.py
  python train.py --cfg_file config-vqdino/vqdino_tfd_r-coco.py --data_dir data --with_pretrain
  python train.py --cfg_file config-dinosaur/dinosaur_r-coco.py --data_dir data optimizer.lr=1e-4
  python train.py --cfg_file config-dinosaur/dinosaur_r-coco.py --print_cfg resolution=384
exit codes: 0 done, 2 something to set right, 3 stopped and resumable, 130 interrupted at once"""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the command line's options."""
    parser = commandline.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--cfg_file", metavar="FILE", help="config to train (default: the demo)")
    add("--data_dir", metavar="DIR", help="folder of the converted datasets (demo: data)")
    add("--save_dir", metavar="DIR", default="save", help="folder of all runs (default: save)")
    add("--ckpt_file", metavar="PATH", help="stage-1 checkpoint or run folder (default: its best in --save_dir)")
    add(
        "--with_pretrain",
        action="store_true",
        help="train the stage-1 config first, with pretrain.knobs, if it is missing",
    )
    add(
        "--resume",
        choices=["auto", "must", "never"],
        default="auto",
        metavar="HOW",
        help="an earlier run: auto (default) = go on; must = or fail; never = move aside",
    )
    add("--resume_anyway", action="store_true", help="continue it under a changed config too")
    add("--time_limit", metavar="TIME", type=commandline.duration, help="save and stop after 3h50m, 90m, ...")
    add("--reproduce", metavar="RUN_DIR", help="repeat a run's first steps; name the first that differs and end with 1")
    add("--steps", metavar="N", type=commandline.count, default=100, help="so many of --reproduce (default: 100)")
    add("--profile", metavar="N", type=int, help="only tell where the time of N steps goes")
    add("--print_cfg", action="store_true", help="print the resolved config, a leaf per line, and stop")
    add("--check", action="store_true", help="check config, data, weights and one step, and stop")
    commandline.add_run_options(parser)
    return commandline.parse(parser, arguments)


def main(arguments: list[str]) -> int:
    """Run; return the exit code: 0 done, 2 an error of use, 3 interrupted and saved, 130 interrupted."""
    options = parse(arguments)
    options.demo = options.cfg_file is None
    options.cfg_file = options.cfg_file or str(Path(__file__).parent / DEMO)
    if options.print_cfg:  # without importing torch
        try:
            config.print_lines(config.show(config.load(options.cfg_file, options.overrides)))
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0
    from object_centric_bench import job

    if options.reproduce:
        return job.guarded(lambda: job.reproduce_command(options), options.level)
    if options.check:
        from object_centric_bench.doctor.command import check_command

        return job.guarded(lambda: check_command(options), options.level)
    return job.guarded(lambda: job.train_command(options), options.level)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
