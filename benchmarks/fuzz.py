"""Feed damaged and hostile inputs to everything that reads files from outside; count what is refused, and what breaks.

    python -m benchmarks.fuzz [--inputs 100000] [--seed 0] [--targets NAME ...] [--again NAME:NUMBER]

Inputs are real ones changed at random: bits flipped, numbers replaced by extreme ones, parts cut out, doubled, spliced
in from other inputs. Input n of a target depends on seed, target and n only, so `--again` shows one alone. Inputs are
read in forked processes whose address space may grow by `MEMORY` only, and in which an input may take `SECONDS` of the
processor's time. A finding is any exception but our own, an allocation that failed, a signal, or time that ran out.
"""

import argparse
import faulthandler
import logging
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import TextIO

import torch
from tqdm import tqdm

from benchmarks.fuzz_targets import REFUSED, TARGETS

MEMORY = 1 << 30  # bytes that a process may take more than it has: as much as the largest entry of a record
SECONDS, WALL = 5, 120  # of the processor and of the clock, per input
EXTREME = [0, 1, 2, 7, *((1 << bits) - 1 for bits in (7, 8, 15, 16, 31, 32, 63, 64)), 0x80, 0x10000, 1 << 31, 1 << 40]
PROGRESS = struct.Struct("<QQQQ")  # input in work, accepted, refused, microseconds of the slowest
OUT_OF_MEMORY = (
    "MemoryError",
    "bad_alloc",
    "not enough memory",
    "annot allocate",
    "an't allocate",
    "nsufficient memory",
)
SHOWN = 3  # findings of a kind that are printed


def mutated(seeds: list[bytes], rng: random.Random) -> bytes:
    """Return one of the inputs, changed at one to five places."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice([1, 1, 2, 3, 5])):
        position = rng.randrange(len(data) + 1)
        if rng.random() < 0.3:  # most formats keep what matters at their beginning
            position = rng.randrange(min(len(data), 200) + 1)
        length = min(rng.choice([1, 2, 4, 8, 30, 500]), len(data) - position)
        kind = rng.randrange(8)
        if kind <= 1 and length:
            data[position] ^= 1 << rng.randrange(8)
        elif kind == 2 and length:
            data[position] = rng.randrange(256)
        elif kind == 3:
            size = rng.choice([1, 2, 4, 8])
            value = (rng.choice([*EXTREME, len(data)]) + rng.choice([-1, 0, 0, 1])) % (1 << 8 * size)
            data[position : position + size] = value.to_bytes(size, rng.choice(["little", "little", "big"]))
        elif kind == 4:
            del data[position : rng.choice([position + length, len(data)])]
        elif kind == 5:
            data[position:position] = data[position : position + length] * rng.choice([1, 1, 2, 20])
        elif kind == 6:
            data[position:position] = rng.randbytes(length)
        else:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            data[position : position + length] = other[start : start + length]
    return bytes(data)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Tell whether an exception comes from an allocation that failed, even if a reader made its own message of it."""
    while error is not None:
        if isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


class Fuzzer:
    """Sends the inputs of one target through forked processes.

    Args:
        name: of the target.
        seed: of all inputs.
        folder: for files.
    """

    def __init__(self, name: str, seed: int, folder: Path):
        self.name, self.target, self.seed, self.folder = name, TARGETS[name], seed, folder
        made = folder / "seeds"
        made.mkdir(parents=True)
        self.seeds = self.target.seeds(made)
        self.errors = folder / "errors.txt"
        self.errors.touch()
        self.shared = mmap.mmap(-1, PROGRESS.size)
        self.findings: Counter[str] = Counter()

    def input(self, number: int) -> bytes:
        """Return an input; the first ones are the real ones, which must be accepted."""
        if number < len(self.seeds):
            return self.seeds[number]
        return mutated(self.seeds, random.Random(f"{self.seed}/{self.name}/{number}"))

    def attempt(self, number: int) -> bool:
        """Read an input; tell whether it was accepted.

        Raises:
            Exception: not one of ours.
        """
        try:
            self.target.attempt(self.input(number), self.folder)
        except REFUSED as error:
            if number < len(self.seeds):
                raise AssertionError("a real input was refused") from error
            if is_out_of_memory(error):
                raise AssertionError("an allocation failed") from error
            return False
        return True

    def run(self, count: int) -> dict:
        """Read so many inputs; return counts, the slowest one's seconds and the memory that a process had at most."""
        number, kilobytes, began = 0, 0, time.monotonic()
        with tqdm(desc=self.name, total=count, mininterval=2.0) as bar:
            while number < count:
                process = os.fork()
                if process == 0:
                    self.child(number, count)
                while True:
                    done, status, usage = os.wait4(process, os.WNOHANG)
                    bar.update(PROGRESS.unpack(self.shared)[0] - bar.n)
                    if done:
                        break
                    time.sleep(0.05)
                kilobytes = max(kilobytes, usage.ru_maxrss)
                number = PROGRESS.unpack(self.shared)[0]
                if (code := os.waitstatus_to_exitcode(status)) != 0:
                    what = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                    self.note(number, f"the process ended by {what}")
                    number += 1
                    self.set(0, number)
            bar.update(count - bar.n)
        _, accepted, refused, slowest = PROGRESS.unpack(self.shared)
        for line in self.errors.read_text("utf-8", "replace").split("\n")[:-1]:
            self.note(*line.split(" ", 1))
        counts = {"inputs": count, "accepted": accepted, "refused": refused, "findings": sum(self.findings.values())}
        seconds = time.monotonic() - began
        return counts | {"slowest_s": slowest / 1e6, "peak_MB": kilobytes / 1e3, "s": seconds}

    def note(self, number: int | str, what: str) -> None:
        """Print a finding, the first ones of its kind only."""
        self.findings[what] += 1
        if self.findings[what] <= SHOWN:
            tqdm.write(f"{self.name}, input {number}: {what}")

    def set(self, place: int, value: int) -> None:
        """Set a number of the progress."""
        struct.pack_into("<Q", self.shared, 8 * place, value)

    def child(self, start: int, count: int) -> None:
        """Read inputs in this process, never return."""
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            faulthandler.disable()  # pytest's writes elsewhere
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            for kind in (signal.SIGPROF, signal.SIGALRM):
                signal.signal(kind, signal.SIG_DFL)  # ends the process, in C code too
            with self.errors.open("a", encoding="utf-8", errors="replace") as errors:
                for number in range(start, count):
                    self.step(number, errors)
            self.set(0, count)
            os._exit(0)
        finally:
            os._exit(70)

    def step(self, number: int, errors: TextIO) -> None:
        """Read an input and count what came of it."""
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WALL)
        began = time.process_time()
        self.set(0, number)
        try:
            place = 1 if self.attempt(number) else 2
            self.set(place, PROGRESS.unpack(self.shared)[place] + 1)
        except Exception as error:
            frame = traceback.extract_tb((error.__cause__ or error).__traceback__)[-1]
            where = f"{Path(frame.filename).name}:{frame.lineno}"
            first = (str(error.__cause__ or error).splitlines() or [""])[0][:90]
            errors.write(f"{number} {type(error).__name__} at {where}: {error if error.__cause__ else ''} {first}\n")
            errors.flush()
        spent = int((time.process_time() - began) * 1e6)
        self.set(3, max(spent, PROGRESS.unpack(self.shared)[3]))


def main() -> int:
    """Print a line per target; return 1 if there were findings."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="of all targets together, at least [100000]")
    parser.add_argument("--seed", type=int, default=0, help="of the changes [0]")
    parser.add_argument("--targets", nargs="*", metavar="NAME", help=f"of {', '.join(TARGETS)} [all]")
    parser.add_argument("--again", metavar="NAME:NUMBER", help="read one input in this process, unguarded")
    arguments = parser.parse_args()
    names = arguments.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable()
    folder = Path(tempfile.mkdtemp())
    try:
        if arguments.again:
            name, _, number = arguments.again.rpartition(":")
            print("accepted" if Fuzzer(name, arguments.seed, folder / "again").attempt(int(number)) else "refused")
            return 0
        return report(names, arguments, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def report(names: list[str], arguments: argparse.Namespace, folder: Path) -> int:
    """Run targets and print their table."""
    shares = {name: TARGETS[name].share for name in names}
    rows = {}
    for name in names:
        count = -(-arguments.inputs * shares[name] // sum(shares.values()))
        rows[name] = Fuzzer(name, arguments.seed, folder / name.replace(" ", "-")).run(count)
    print(f"{'target':18}" + "".join(f"{key:>11}" for key in next(iter(rows.values()))))
    for name, row in rows.items():
        cells = [f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()]
        print(f"{name:18}" + "".join(f"{cell:>11}" for cell in cells))
    totals = {key: sum(row[key] for row in rows.values()) for key in ("inputs", "accepted", "refused", "findings")}
    print(", ".join(f"{value} {key}" for key, value in totals.items()))
    return 1 if totals["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
