"""Score a checkpoint, segment pictures and videos of your own, or write the report of a run."""

import argparse
import sys

from object_centric_bench import commandline

EXAMPLES = """examples:
  python eval.py --ckpt_file save/vvo_mlp-shapes/42 --data_dir data
  python eval.py --cfg_file config-dinosaur/dinosaur_r-coco.py --ckpt_file best.pth --data_dir data
  python eval.py --ckpt_file save/vvo_mlp-shapes/42 --data_dir data --protocol vvo spot videosaur
  python eval.py --ckpt_file save/vvo_mlp-shapes/42 --predict photos clip.mp4 --out found
  python eval.py --report save/vvo_mlp-shapes/42
exit codes: 0 done, 2 something to set right, 130 interrupted"""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the command line's options."""
    parser = commandline.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--cfg_file", metavar="FILE", help="config of the model (default: that in the checkpoint)")
    add("--ckpt_file", metavar="PATH", help="checkpoint or run folder (then its best, else its last)")
    add("--data_dir", metavar="DIR", help="folder of the converted datasets")
    add("--out", metavar="DIR", help="of results (default: eval/ or predict/ beside the checkpoint)")
    add("--protocol", metavar="NAME", nargs="+", help="rules to score by, see docs/metrics.md: vvo spot ..., or all")
    add("--predict", metavar="PATH", nargs="+", help="pictures, videos, folders or patterns of your own to segment")
    add("--boxes", metavar="FILE", help="JSON: video -> [left, top, right, bottom] of its objects")
    add("--max_frames", metavar="N", type=int, default=600, help="frames of a video to segment (default: 600)")
    add("--report", metavar="RUN_DIR", help="write report.html of a run into its folder, and stop")
    add("--parent", metavar="PATH", help="config or run folder the report compares with")
    commandline.add_run_options(parser)
    options = commandline.parse(parser, arguments)
    if options.protocol is not None:  # an override may follow the names
        options.overrides += [each for each in options.protocol if "=" in each]
        options.protocol = [each for each in options.protocol if "=" not in each]
        if not options.protocol:
            parser.error("--protocol wants a name")
    if options.ckpt_file is None and options.report is None:
        parser.error("--ckpt_file is missing (or --report RUN_DIR)")
    return options


def main(arguments: list[str]) -> int:
    """Run; return the exit code: 0 done, 2 an error of use, 130 interrupted."""
    options = parse(arguments)
    from object_centric_bench import job

    if options.report:
        from object_centric_bench.run_report import draw

        return job.guarded(lambda: draw.report_command(options), options.level)
    if options.predict:
        from object_centric_bench import predict_files

        return job.guarded(lambda: predict_files.predict_command(options), options.level)
    return job.guarded(lambda: job.eval_command(options), options.level)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
