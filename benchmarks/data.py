"""Speed of the data pipeline: python -m benchmarks.data

Measures, on one core: samples/s of COCO-like records (640x480 JPEG, label map) under the training transforms of COCO,
with the share of each part; scenes/s of the demo dataset's drawing; images/s of the COCO conversion.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from object_centric_bench.datum import coco, shapes
from object_centric_bench.datum.coco import COCO
from object_centric_bench.datum.transform import RandomCrop, RandomFlip, Resize

HEIGHT, WIDTH = 480, 640
KEYS = ["image", "segment"]
REPEATS = 3  # the best counts: other work on the machine only slows down


def make_raw(folder: Path, count: int, rng: np.random.Generator) -> None:
    """Write a COCO-like source of `count` noisy pictures with 12 rectangular segments each."""
    images, labels = folder / "val2017", folder / "annotations" / "panoptic_val2017"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    annotations = []
    for number in range(count):
        name = f"{number:012d}"
        coarse = rng.integers(0, 256, (30, 40, 3)).astype(np.float32)
        picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        picture += 12 * rng.standard_normal(picture.shape, dtype=np.float32)  # gives files of the usual size, 160 kB
        cv2.imwrite(
            str(images / f"{name}.jpg"), np.clip(picture, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90]
        )
        label = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for segment in range(1, 13):
            top, left = rng.integers(HEIGHT - 100), rng.integers(WIDTH - 100)
            label[top : top + rng.integers(50, 300), left : left + rng.integers(50, 300), 2] = segment
        cv2.imwrite(str(labels / f"{name}.png"), label)
        ids = [int(value) for value in np.unique(label[:, :, 2]) if value]
        segments = [{"id": value, "category_id": 1 + value % 2, "bbox": [0, 0, 9, 9], "iscrowd": 0} for value in ids]
        annotations.append({"file_name": f"{name}.png", "segments_info": segments})
    labels.with_suffix(".json").write_text(json.dumps({"annotations": annotations}))
    categories = [{"id": 1, "isthing": 1}, {"id": 2, "isthing": 0}]
    (folder / "annotations" / coco.CATEGORIES).write_text(json.dumps(categories))


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
        start = time.perf_counter()
        coco.convert(folder / "raw", folder, split=("val",))
        print(f"convert.py coco            {options.count / (time.perf_counter() - start):8.0f} images/s/core")
        transforms = [
            RandomCrop(KEYS),
            Resize(["image"], options.resolution),
            Resize(["segment"], options.resolution, "nearest-exact"),
            RandomFlip(KEYS),
        ]
        dataset = COCO("val.lmdb", KEYS, transforms, data_dir=name)

        def full(index: int) -> object:
            return dataset.sample(index, np.random.default_rng([0, 0, index, 1]))

        picture_bytes = np.mean([len(dataset.reader.read(i, ["image"])["image"]) for i in range(options.count)])
        print(f"COCO train samples         {rate(full, options.count):8.0f} samples/s/core")
        print(f"  reading the record       {1e3 / rate(dataset.reader.read, options.count):8.2f} ms")
        print(f"  reading and decoding     {1e3 / rate(dataset.decode, options.count):8.2f} ms")
        print(f"  all                      {1e3 / rate(full, options.count):8.2f} ms")
        print(f"  JPEG files of            {picture_bytes / 1e3:8.0f} kB on average")

    def draw(index: int) -> object:
        return shapes.render(np.random.default_rng([0, 0, index]), 128)

    print(f"convert.py shapes, drawing {rate(draw, options.count):8.0f} scenes/s/core")


if __name__ == "__main__":
    main()
