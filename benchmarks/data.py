"""Speed of the data pipeline: python -m benchmarks.data [--count 200] [--rounds 5]

Samples like COCO's (640x480 JPEG, label map) under the training transforms of COCO (crop, resize to 256, flip), in
batches of 32, by one thread, from published records (label maps in WebP), from ours, and from ours with decoded
pictures (`--pixels`). In turns with the *floor*, decoding picture and label map with the fastest library and nothing
else, and with the *plain* pipeline on the published records: OpenCV decodes, colours are converted, tensors are
cropped, torchvision resizes, pictures become float and are normalised one by one, label maps are renumbered segment by
segment, PyTorch's default collate makes the batch. Decoded pictures are compared with the floor of encoded ones.
"""

import argparse
import pickle
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import lmdb
import numpy as np
import torch
import torchvision
import zstandard
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from benchmarks.conversion import make_raw
from benchmarks.table import Line, Options, markdown, seconds
from object_centric_bench.datum import coco
from object_centric_bench.datum.coco import COCO
from object_centric_bench.datum.loader import batches
from object_centric_bench.datum.record import inflate
from object_centric_bench.datum.transform import RandomCrop, RandomFlip, Resize
from object_centric_bench.recipe.dataset import MEAN, STD
from tests.datum.stores import published

KEYS = ["image", "segment"]
RESOLUTION = 256
BATCH = 32
COUNT = 128  # pictures: 17 MB of JPEG, more than fits into most caches
FLOOR_TARGET, PUBLISHED_TARGET, OURS_TARGET, PIXELS_TARGET = 0.65, 2.2, 3.0, 3.0


class Plain(torch.utils.data.Dataset):
    """Published COCO records, read and transformed in the usual way."""

    def __init__(self, file: str):
        self.environment = lmdb.open(file, subdir=False, readonly=True, lock=False, readahead=False)
        with self.environment.begin() as transaction:
            self.keys = pickle.loads(transaction.get(b"__keys__"))  # a file that this benchmark wrote
        self.crop = RandomCrop(KEYS)
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return image (c h w) float32, normalised, and segment (h w) uint8."""
        rng = np.random.default_rng([0, 0, index, 1])
        with self.environment.begin() as transaction:
            record = pickle.loads(transaction.get(self.keys[index]))
        image = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_COLOR)
        image = torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)
        segment = torch.from_numpy(cv2.imdecode(record["segment"], cv2.IMREAD_GRAYSCALE))
        top, left, height, width = self.crop.window(*segment.shape, rng)
        window = slice(top, top + height), slice(left, left + width)
        size = [RESOLUTION, RESOLUTION]
        image = tv.resize(image[:, *window], size, InterpolationMode.BILINEAR, antialias=True)
        segment = tv.resize(segment[None, *window], size, InterpolationMode.NEAREST_EXACT)[0]
        if rng.uniform() < 0.5:
            image, segment = image.flip(-1), segment.flip(-1)
        image = (image.float() - self.mean) / self.std
        for number, thing in enumerate(record["isthing"], 1):
            if not thing:
                segment[segment == number] = 0
        new = torch.zeros_like(segment)
        left_over = [number for number in segment.unique().tolist() if number]
        for number, old in enumerate(left_over, 1):
            new[segment == old] = number
        return {"image": image, "segment": new, "index": index}


def make_files(folder: Path, count: int) -> tuple[Path, Path, Path]:
    """Write COCO-like samples as a published file, as one of ours, and with decoded pictures; return their paths."""
    make_raw(folder / "raw", count, np.random.default_rng(0))
    coco.convert(folder / "raw", folder, split=("val",))
    coco.convert(folder / "raw", folder / "pixels", split=("val",), pixels=True)
    ours = COCO("val.lmdb", KEYS, data_dir=str(folder))
    names = {"image": "image", "box": "bbox", "category": "clazz", "is_thing": "isthing"}
    records = []
    for index in range(len(ours)):
        stored = ours.reader.read(index)
        segment = cv2.imencode(".webp", stored["segment"])[1].ravel()  # lossless without a quality
        records.append({"segment": segment} | {name: stored[key] for key, name in names.items()})
    published(folder / "published.lmdb", records)
    return folder / "published.lmdb", folder / "val.lmdb", folder / "pixels" / "val.lmdb"


def dataset(file: Path) -> COCO:
    """Return the training split of COCO's configs."""
    transforms = [
        RandomCrop(KEYS),
        Resize(["image"], RESOLUTION),
        Resize(["segment"], RESOLUTION, "nearest-exact"),
        RandomFlip(KEYS),
    ]
    return COCO(file.name, KEYS, transforms, data_dir=str(file.parent))


def exhaust(make: Callable[[], Iterator]) -> None:
    """Take everything from a new iterator."""
    for _ in make():
        pass


def decoders(pictures: list[bytes]) -> dict[str, Callable[[int], object]]:
    """Return what decodes a JPEG file, by library; those that are not installed are left out."""
    arrays = [np.frombuffer(picture, np.uint8) for picture in pictures]
    tensors = [torch.frombuffer(bytearray(picture), dtype=torch.uint8) for picture in pictures]
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    found = {
        "OpenCV": lambda index: cv2.imdecode(arrays[index], flags),
        "torchvision": lambda index: torchvision.io.decode_jpeg(tensors[index], torchvision.io.ImageReadMode.RGB),
    }
    try:
        import simplejpeg
    except ImportError:
        return found
    return found | {"simplejpeg": lambda index: simplejpeg.decode_jpeg(pictures[index])}


def lines(options: Options, count: int = COUNT) -> list[Line]:
    """Measure floor, plain and ours in turns; the CPU time of this thread counts."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        old, new, decoded = make_files(Path(name), count)
        pictures = [dataset(new).reader.read(index, ["image"])["image"] for index in range(count)]
        webps = [dataset(old).reader.read(index, ["segment"])["segment"] for index in range(count)]
        raws = [cv2.imdecode(each, cv2.IMREAD_GRAYSCALE).tobytes() for each in webps]
        packed = [zstandard.ZstdCompressor(level=9).compress(each) for each in raws]
        plain = DataLoader(Plain(shutil.copy(old, f"{name}/plain.lmdb")), BATCH, shuffle=True)
        steps = -(-count // BATCH)

        def decode_all(function: Callable[[int], object]) -> None:
            for index in range(count):
                function(index)

        jpeg = decoders(pictures)
        labels = {
            "WebP": lambda index: cv2.imdecode(webps[index], cv2.IMREAD_GRAYSCALE),
            "zstd": lambda index: inflate(packed[index]),
        }
        ours = [partial(batches, dataset(file), BATCH, seed=0, total_steps=steps) for file in (old, new, decoded)]
        functions = [partial(exhaust, each) for each in (lambda: iter(plain), *ours)]
        functions += [partial(decode_all, function) for function in (*labels.values(), *jpeg.values())]
        plain_ms, published_ms, ours_ms, pixels_ms, webp, zstd, *jpegs = (
            1e3 * each / count for each in seconds(functions, options.rounds, time.thread_time)
        )
    library, least = min(zip(jpeg, jpegs, strict=True), key=lambda pair: pair[1])
    result = []
    for title, ms, label, coding, target in (
        ("published records", published_ms, webp, "WebP", PUBLISHED_TARGET),
        ("our records", ours_ms, zstd, "zstd", OURS_TARGET),
        ("our records, pixels", pixels_ms, zstd, "zstd", PIXELS_TARGET),
    ):
        what = f"COCO training sample, {title}"
        floor_name = f"floor: JPEG by {library} {least:.2f}, {coding} {label:.2f}"
        result.append(Line(what, ms, "ms", least + label, floor_name, FLOOR_TARGET))
        result.append(Line(what, ms, "ms", plain_ms, "plain pipeline", target))
    result += [Line(f"JPEG by {name}", ms, "ms", least, f"{library}") for name, ms in zip(jpeg, jpegs, strict=True)]
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=COUNT, help=f"pictures to make [{COUNT}]")
    parser.add_argument("--rounds", type=int, default=Options().rounds, help="repetitions [5]")
    options = parser.parse_args()
    print(markdown(lines(Options(options.rounds), options.count)))


if __name__ == "__main__":
    main()
