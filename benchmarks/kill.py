"""Kill a small run by SIGKILL at random moments, continue it, and compare the outcome with one that was left in peace.

    python -m benchmarks.kill [--kills 50] [--seed 0] [--workers 0]

Every second kill comes after a random time; the others come inside the writing of a checkpoint or of the log: before,
after or in the middle of a randomly chosen operation on files. A run is started again with `--resume auto` until it
ends. Then weights, optimizer state, log, losses, best checkpoint and scores must be equal to the bit. Each attempt is
forked from this process, which has imported everything, so that a kill costs seconds.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

import train
from object_centric_bench import job  # noqa: F401, so that no attempt has to import it
from object_centric_bench.datum import shapes
from object_centric_bench.learn import checkpoint, lines

CONFIG = Path(__file__).with_name("tiny.py")
BYTES = ("log.jsonl", "losses.csv", "config.json")
WEIGHTS = ("last/model.safetensors", "best/model.safetensors")  # of which safetensors orders two facts at random
OPERATIONS = 200  # on files, about as many as a whole run makes: the kill comes at one of them
SECONDS = 8.0  # about as long as a whole run takes


class Tripwire:
    """Ends this process by SIGKILL at its n-th operation on the files of a checkpoint or a log.

    Args:
        number: n, from 1 on.
        where: `before` it, `after` it or in the `middle`: then what was written is cut to half.
    """

    def __init__(self, number: int, where: str):
        self.left, self.where = number, where

    def set(self) -> None:
        """Watch all operations."""
        checkpoint.save_tensors = self.watched(checkpoint.save_tensors, written=lambda args: args[1])
        torch.save = self.watched(torch.save, written=lambda args: args[1])
        checkpoint._flush = self.watched(checkpoint._flush)
        Path.rename = self.watched(Path.rename)
        shutil.rmtree = self.watched(shutil.rmtree)
        lines.LineFile.add = self.watched(lines.LineFile.add, written=lambda args: args[0].file)

    def watched(self, operation: Callable, written: Callable[[tuple], Path] | None = None) -> Callable:
        """Return the operation with the wire across it."""

        def run(*args: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0 and self.where == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            file = None if written is None or self.left else Path(written(args))
            before = file.stat().st_size if file is not None and file.exists() else 0
            result = operation(*args, **options)
            if self.left == 0:
                if self.where == "middle" and file is not None:
                    os.truncate(file, (before + file.stat().st_size) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return run


def attempt(data: Path, save: Path, overrides: list[str], tripwire: Tripwire | None, seconds: float | None) -> int:
    """Train in a process of its own, continuing what is there; return its exit code, -9 if it was killed."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 1)
            errors = os.open(save.parent / f"{save.name}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(errors, 2)
            if tripwire is not None:
                tripwire.set()
            arguments = ["--cfg_file", str(CONFIG), "--data_dir", str(data), "--save_dir", str(save), "--seed=3"]
            code = train.main([*arguments, "--device=cpu", "--viz=0", *overrides])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if deadline is not None and time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            deadline = None
        time.sleep(0.002)


def difference(first: Path, second: Path) -> list[str]:
    """Return the names of what differs between two run folders."""
    found = [name for name in BYTES if (first / name).read_bytes() != (second / name).read_bytes()]
    for name in WEIGHTS:
        found += [] if equal(*(checkpoint.read(folder / name) for folder in (first, second))) else [name]
    states = [torch.load(folder / "last" / "state.pt", weights_only=True) for folder in (first, second)]
    for callback in [each for state in states for each in state["callbacks"]]:
        callback.get("sizes", {}).pop("timing.jsonl", None)  # of a file of seconds
    found += [] if equal(*states) else ["last/state.pt"]
    scores = [json.loads((folder / "eval" / "eval.json").read_text())["images"] for folder in (first, second)]
    return found + ([] if scores[0] == scores[1] else ["eval/eval.json"])


def first_difference(first: Path, second: Path) -> str:
    """Return the first line of the logs that differs."""
    texts = [(folder / "log.jsonl").read_text().splitlines() for folder in (first, second)]
    return next((f"- {one}\n+ {other}" for one, other in zip_longest(*texts) if one != other), "equal logs")


def equal(first: Any, second: Any) -> bool:
    """Tell whether nested dicts and lists hold the same to the bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


def main() -> int:
    """Print a line per run and the counts; return 1 if anything differed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="at least so many [50]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments [0]")
    parser.add_argument("--workers", type=int, default=0, help="processes that read data [0]")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    moments = random.Random(arguments.seed)
    kills, runs, wrong = {"time": 0, "files": 0}, 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shapes.convert(folder / "shapes", num_train=22, num_val=8, size=64)
        overrides = [f"workers={arguments.workers}"]
        if attempt(folder, folder / "whole", overrides, None, None) != 0:
            print("the run that was left in peace failed:", (folder / "whole.txt").read_text())
            return 1
        while sum(kills.values()) < arguments.kills:
            save, code, count = folder / f"killed-{runs}", -9, 0
            while code == -9:
                tripwire, seconds = None, None
                if (kind := ("time", "files")[sum(kills.values()) % 2]) == "files":
                    where = moments.choice(["before", "middle", "after"])
                    tripwire = Tripwire(moments.randint(1, OPERATIONS // 2), where)
                else:
                    seconds = moments.uniform(0.0, SECONDS)
                code = attempt(folder, save, overrides, tripwire, seconds)
                kills[kind] += code == -9
                count += code == -9
            runs += 1
            differs = [f"exit code {code}"] if code else difference(folder / "whole/tiny/3", save / "tiny/3")
            wrong += bool(differs)
            print(f"run {runs}: killed {count} times: {', '.join(differs) or 'equal to the bit'}", flush=True)
            if differs:
                print(first_difference(folder / "whole/tiny/3", save / "tiny/3"))
                print(save.with_suffix(".txt").read_text()[-3000:])
            shutil.rmtree(save)
    total = sum(kills.values())
    print(f"{total} kills ({kills['time']} at random times, {kills['files']} inside file operations) in {runs} runs:")
    print(f"{runs - wrong} of {runs} runs ended equal to the bit")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
