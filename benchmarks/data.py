"""Speed of the data pipeline: python -m benchmarks.data

Measures, on one core: samples/s of COCO-like records (640x480 JPEG, label map) under the training transforms of COCO,
with the share of each part; scenes/s of the demo dataset's drawing.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.conversion import make_raw
from object_centric_bench.datum import coco, shapes
from object_centric_bench.datum.coco import COCO
from object_centric_bench.datum.transform import RandomCrop, RandomFlip, Resize

KEYS = ["image", "segment"]
REPEATS = 3  # the best counts: other work on the machine only slows down


def rate(function: Callable[[int], object], count: int) -> float:
    """Return calls per second of `function(0)` ... `function(count - 1)`, the best of some repeats."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for number in range(count):
            function(number)
        seconds.append(time.perf_counter() - start)
    return count / min(seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=200, help="pictures to make [200]")
    parser.add_argument("--resolution", type=int, default=256, help="side after Resize, pixels [256]")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_raw(folder / "raw", options.count, np.random.default_rng(0))
        coco.convert(folder / "raw", folder, split=("val",))
        transforms = [
            RandomCrop(KEYS),
            Resize(["image"], options.resolution),
            Resize(["segment"], options.resolution, "nearest-exact"),
            RandomFlip(KEYS),
        ]
        dataset = COCO("val.lmdb", KEYS, transforms, data_dir=name)

        def decode(index: int) -> object:
            return dataset.decode(index, np.random.default_rng(0))

        def full(index: int) -> object:
            return dataset.sample(index, np.random.default_rng([0, 0, index, 1]))

        picture_bytes = np.mean([len(dataset.reader.read(i, ["image"])["image"]) for i in range(options.count)])
        print(f"COCO train samples         {rate(full, options.count):8.0f} samples/s/core")
        print(f"  reading the record       {1e3 / rate(dataset.reader.read, options.count):8.2f} ms")
        print(f"  reading and decoding     {1e3 / rate(decode, options.count):8.2f} ms")
        print(f"  all                      {1e3 / rate(full, options.count):8.2f} ms")
        print(f"  JPEG files of            {picture_bytes / 1e3:8.0f} kB on average")

    def draw(index: int) -> object:
        return shapes.render(np.random.default_rng([0, 0, index]), 128)

    print(f"convert.py shapes, drawing {rate(draw, options.count):8.0f} scenes/s/core")


if __name__ == "__main__":
    main()
