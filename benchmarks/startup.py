"""Time from a command to its help, its config, its first training step: python -m benchmarks startup

Files are in the page cache after the first round, as on a machine that is in use.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.table import Line, Options, seconds

REPOSITORY = Path(__file__).resolve().parent.parent
STAGE1 = ["train.py", "--cfg_file", "config-demo/vqshapes.py"]
STAGE2 = ["train.py", "--cfg_file", "config-demo/vvo_mlp-shapes.py"]
HELP, CONFIG, STEP = 0.5, 1.0, 15.0  # seconds that are wanted at most
EVERY = "callback.1.every=1"  # the log's: a line for every step
COMMANDS = {  # what -> arguments, limit
    "train.py --help": (["train.py", "--help"], HELP),
    "train.py --print_cfg": (["train.py", "--print_cfg"], CONFIG),
    "eval.py --help": (["eval.py", "--help"], HELP),
    "convert.py --help": (["convert.py", "--help"], HELP),
}


def run(arguments: list[str]) -> None:
    """Run a command to its end.

    Raises:
        CalledProcessError: it failed.
    """
    subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, check=True, capture_output=True)


def until_first_step(arguments: list[str]) -> float:
    """Start a training, end it after its first step, and return the seconds until then.

    Raises:
        RuntimeError: it ended before.
    """
    start = time.perf_counter()
    command = [sys.executable, *arguments, EVERY]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        seen = []
        for line in process.stderr:
            seen.append(line)
            if line.startswith("step 1/"):
                taken = time.perf_counter() - start
                process.kill()
                return taken
    raise RuntimeError(f"{' '.join(arguments)} did not come to its first step: {''.join(seen[-5:])}")


def lines(options: Options) -> list[Line]:
    """Measure all start-ups."""
    functions = [lambda arguments=arguments: run(arguments) for arguments, _ in COMMANDS.values()]
    taken = seconds(functions, options.rounds)
    found = [
        Line(what, each, "s", limit, "limit", target=1.0)
        for each, (what, (_, limit)) in zip(taken, COMMANDS.items(), strict=True)
    ]
    with tempfile.TemporaryDirectory() as name:
        run(["convert.py", "shapes", "--dst_dir", f"{name}/data/shapes"])
        where = ["--data_dir", f"{name}/data", "--save_dir", f"{name}/save", "--device", options.device]
        first = until_first_step([*STAGE1, *where])
        run([*STAGE1, *where, "--resume=never", "total_steps=2"])  # a whole first stage, and its features kept
        second = until_first_step([*STAGE2, *where, "--resume=never"])
    for what, each in (
        ("demo to its first step, stage 1, features computed", first),
        ("demo to its first step, stage 2, stage 1 and features there", second),
    ):
        found.append(Line(what, each, "s", STEP, "limit", target=1.0))
    return found
