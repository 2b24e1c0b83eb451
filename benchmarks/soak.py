"""Train the demo for an hour and see whether it keeps to its memory, its open files and its speed.

    python -m benchmarks.soak [--minutes 60] [--workers 2] [--every 5]

The demo's second stage is trained, after a first stage of a few steps, with frequent evaluations and checkpoints, until
its time is over; it must save and end with code 3. Meanwhile memory (PSS: shared pages count once) and open files of it
and its data workers are read. After a warm-up of a quarter of the time memory may not rise by more than `RISE`.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from object_centric_bench.datum import shapes

REPOSITORY = Path(__file__).resolve().parent.parent
STAGES = ("config-demo/vqshapes.py", "config-demo/vvo_mlp-shapes.py")
RISE = 0.03  # of the level after the warm-up, between the first and the last third of what follows it
FOREVER, EVERY = 10**8, 50  # steps of the run, and between two evaluations


class Reading(NamedTuple):
    """What a run and its workers use: seconds since its start, megabytes, number of open files and of processes."""

    seconds: float
    megabytes: float
    files: int
    processes: int


def read(process: psutil.Process, began: float) -> Reading | None:
    """Return what a process and its children use; None if it is about to end."""
    try:
        everyone = [process, *process.children(recursive=True)]
        megabytes = sum(each.memory_full_info().pss for each in everyone) / 1e6
        return Reading(time.monotonic() - began, megabytes, sum(each.num_fds() for each in everyone), len(everyone))
    except psutil.Error:
        return None


def judge(readings: list[Reading]) -> list[str]:
    """Return what was not flat; empty if all was.

    Args:
        readings: of the whole run.
    """
    last = readings[-1].seconds
    steady = [each for each in readings if each.seconds > last / 4]
    third = len(steady) // 3
    if not third:
        return ["too few readings to judge"]
    levels = [statistics.median(each.megabytes for each in part) for part in (steady[:third], steady[-third:])]
    files = [statistics.median_low(each.files for each in part) for part in (steady[:third], steady[-third:])]
    rise = levels[1] / levels[0] - 1
    print(f"memory after the warm-up {levels[0]:.0f} MB, at the end {levels[1]:.0f} MB ({100 * rise:+.2f} %)")
    processes = max(each.processes for each in readings)
    print(f"open files after the warm-up {files[0]}, at the end {files[1]}; processes {processes}")
    found = [f"memory rose by {100 * rise:.1f} %"] if rise > RISE else []
    return found + ([f"open files rose from {files[0]} to {files[1]}"] if files[1] > files[0] else [])


def main() -> int:
    """Print a line per minute and the outcome; return 1 if something grew or the run did not end as it should."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="of training [60]")
    parser.add_argument("--workers", type=int, default=2, help="processes that read data [2]")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between readings [5]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        data, save = Path(temporary, "data"), Path(temporary, "save")
        shapes.convert(data / "shapes", num_train=256, num_val=32)
        first, second = ([sys.executable, "train.py", "--cfg_file", stage] for stage in STAGES)
        common = ["--data_dir", str(data), "--save_dir", str(save), "--device=cpu", "--viz=0"]
        short = ["total_steps=4", "eval_every=4"]
        subprocess.run([*first, *common, *short], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        leaves = [f"dataset.num_workers={arguments.workers}", f"total_steps={FOREVER}", f"eval_every={EVERY}"]
        leaves += ["callback.1.every=10"]
        limit = f"--time_limit={round(60 * arguments.minutes)}s"
        return watch([*second, *common, *leaves, limit], save / Path(STAGES[1]).stem / "42", arguments.every)


def watch(command: list[str], folder: Path, every: float) -> int:
    """Run a command until it ends, reading what it uses; print the outcome and return the exit code."""
    print(" ".join(command[1:]), flush=True)
    began, minute, readings = time.monotonic(), 0, []
    with (folder.parent.parent / "output.txt").open("w+") as output:
        started = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT)
        process = psutil.Process(started.pid)
        while started.poll() is None:
            reading = read(process, began)
            if reading is not None:
                readings.append(reading)
                if reading.seconds >= 60 * minute:
                    minute = int(reading.seconds // 60) + 1
                    print(f"{reading.seconds:6.0f} s {reading.megabytes:8.0f} MB {reading.files:5} files", flush=True)
            time.sleep(every)
        output.seek(0)
        text = output.read()
    if started.returncode != 3:
        print(text[-3000:])
        print(f"the run ended with code {started.returncode}, 3 was expected")
        return 1
    steps = sum(1 for _ in (folder / "losses.csv").open()) - 1
    print(f"{steps} steps, {steps // EVERY} evaluations and checkpoints, in {readings[-1].seconds:.0f} s")
    found = judge(readings)
    print("; ".join(found) or "flat")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
