"""Train a config: python train.py --cfg_file FILE --data_dir DIR [key=value ...]; without arguments, the whole demo."""

import argparse
import sys
from pathlib import Path

from object_centric_bench import commandline, config
from object_centric_bench.registry import ConfigError

DEMO = "config-demo/vvo_mlp-shapes.py"
EXAMPLES = """examples:
  python train.py                                      the demo: makes data, trains both stages, scores, draws
  python train.py --cfg_file config-vqdino/vqdino_tfd_r-coco.py --data_dir data --with_pretrain
  python train.py --cfg_file config-dinosaur/dinosaur_r-coco.py --data_dir data --seed 43 optimizer.lr=1e-4
  python train.py --cfg_file config-dinosaur/dinosaur_r-coco.py --print_cfg resolution=384"""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the command line's options."""
    parser = commandline.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--cfg_file", metavar="FILE", help="config to train (default: the demo)")
    add("--data_dir", metavar="DIR", help="folder of the converted datasets (demo: data)")
    add("--save_dir", metavar="DIR", default="save", help="folder of all runs (default: save)")
    add("--ckpt_file", metavar="PATH", help="stage-1 checkpoint or run folder (default: its best in --save_dir)")
    add("--with_pretrain", action="store_true", help="train the stage-1 config first where its checkpoint is missing")
    add("--resume", action="store_true", help="continue the run from its last checkpoint")
    add("--print_cfg", action="store_true", help="print the resolved config, a leaf per line, and stop")
    commandline.add_run_options(parser)
    return parser.parse_args(commandline.spelled(arguments))


def main(arguments: list[str]) -> int:
    """Run; return the exit code: 0 done, 2 an error of use, 130 interrupted."""
    options = parse(arguments)
    options.demo = options.cfg_file is None
    options.cfg_file = options.cfg_file or str(Path(__file__).parent / DEMO)
    if options.print_cfg:  # without importing torch
        try:
            print("\n".join(config.show(config.load(options.cfg_file, options.overrides))))
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0
    from object_centric_bench import job

    return job.guarded(lambda: job.train_command(options, ["python", "train.py", *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
