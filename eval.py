"""Score a checkpoint: python eval.py --cfg_file FILE --ckpt_file CHECKPOINT --data_dir DIR [key=value ...]."""

import argparse
import sys

from object_centric_bench import commandline

EXAMPLES = """examples:
  python eval.py --ckpt_file save/vvo_mlp-shapes/42 --data_dir data
  python eval.py --cfg_file config-dinosaur/dinosaur_r-coco.py --ckpt_file best.pth --data_dir data --viz 32"""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the command line's options."""
    parser = commandline.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--cfg_file", metavar="FILE", help="config of the model (default: the one stored in the checkpoint)")
    add("--ckpt_file", metavar="PATH", required=True, help="checkpoint or run folder (then its best, else its last)")
    add("--data_dir", metavar="DIR", required=True, help="folder of the converted datasets")
    add("--out", metavar="DIR", help="where eval.json and pictures go (default: eval/ beside the checkpoint)")
    commandline.add_run_options(parser)
    return parser.parse_args(commandline.spelled(arguments))


def main(arguments: list[str]) -> int:
    """Run; return the exit code: 0 done, 2 an error of use, 130 interrupted."""
    options = parse(arguments)
    from object_centric_bench import job

    return job.guarded(lambda: job.eval_command(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
