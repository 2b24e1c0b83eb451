"""Speed and memory of the COCO conversion: python -m benchmarks.conversion [--count 5000] [--workers 2]

Makes a source of COCO-size pictures (640x480 JPEG of 140 kB, 12 segments with ragged borders), runs `convert.py coco`
on it as a user does, and watches the memory of all its processes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import psutil

from object_centric_bench.datum import coco

HEIGHT, WIDTH = 480, 640
DISTINCT = 200  # pictures drawn; more are copies of these under other names
REPOSITORY = Path(__file__).resolve().parent.parent


def make_raw(folder: Path, count: int, rng: np.random.Generator) -> None:
    """Write a COCO-like source of `count` noisy pictures with up to 12 segments each."""
    images, labels = folder / "val2017", folder / "annotations" / "panoptic_val2017"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    drawn = [draw(rng) for _ in range(min(count, DISTINCT))]
    annotations = []
    for number in range(count):
        name = f"{number:012d}"
        image, label, segments = drawn[number % len(drawn)]
        (images / f"{name}.jpg").write_bytes(image)
        (labels / f"{name}.png").write_bytes(label)
        annotations.append({"file_name": f"{name}.png", "segments_info": segments})
    labels.with_suffix(".json").write_text(json.dumps({"annotations": annotations}))
    categories = [{"id": 1, "isthing": 1}, {"id": 2, "isthing": 0}]
    (folder / "annotations" / coco.CATEGORIES).write_text(json.dumps(categories))


def draw(rng: np.random.Generator) -> tuple[bytes, bytes, list[dict]]:
    """Return a JPEG, a PNG with its segments, and what the JSON says of them."""
    coarse = rng.integers(0, 256, (30, 40, 3)).astype(np.float32)
    picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    picture += 12 * rng.standard_normal(picture.shape, dtype=np.float32)  # gives files of the usual size
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    label = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    label[:, :, 2] = np.stack([field(rng) for _ in range(13)]).argmax(axis=0)
    ids = [int(value) for value in np.unique(label[:, :, 2]) if value]
    segments = [{"id": value, "category_id": 1 + value % 2, "bbox": [0, 0, 9, 9], "iscrowd": 0} for value in ids]
    image = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    return image, cv2.imencode(".png", label)[1].tobytes(), segments


def field(rng: np.random.Generator) -> np.ndarray:
    """Return (h w) float32, smooth with ragged details: where it is largest of several, a segment like those drawn."""
    scales = ((6, 8, 1.0), (60, 80, 0.15))
    noise = [scale * rng.standard_normal((rows, columns)).astype(np.float32) for rows, columns, scale in scales]
    return sum(cv2.resize(each, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for each in noise)


def watch(command: list[str]) -> tuple[float, float, float]:
    """Run a command; return its seconds, and the peak memory of its largest process and of all together, MiB.

    Memory is the resident set; pages that processes share count for each of them.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY)
    root = psutil.Process(process.pid)
    largest = total = 0
    while process.poll() is None:
        try:
            sizes = [each.memory_info().rss for each in (root, *root.children(recursive=True))]
        except psutil.NoSuchProcess:
            continue
        largest, total = max(largest, *sizes), max(total, sum(sizes))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return time.perf_counter() - start, largest / 2**20, total / 2**20


def folder_size(folder: Path) -> float:
    """Return the size of all files below a folder, MB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conversion", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=5000, help="pictures [5000]")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes [all cores]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_raw(folder / "raw", options.count, np.random.default_rng(0))
        words = ["convert.py", "coco", "--src_dir", folder / "raw", "--dst_dir", folder / "out", "--split", "val"]
        command = [sys.executable, *map(str, words), f"--workers={options.workers}"]
        start_up, *_ = watch([*command, "--limit=1", "--force"])
        seconds, largest, total = watch([*command, "--force"])
        print(f"{options.count} images, {options.workers} workers")
        print(f"start and one image        {start_up:8.1f} s")
        print(f"conversion                 {options.count / (seconds - start_up):8.0f} images/s without the start")
        print(f"                           {options.count / seconds:8.0f} images/s with it")
        print(f"peak memory                {largest:8.0f} MiB in the largest process, {total:.0f} MiB in all")
        print(f"raw files                  {folder_size(folder / 'raw'):8.0f} MB")
        print(f"LMDB file                  {folder_size(folder / 'out'):8.0f} MB")


if __name__ == "__main__":
    main()
