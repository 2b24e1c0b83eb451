"""Speed and size of MOVi: python -m benchmarks.video [--src_dir RAW]

Measures, on one core: scenes/s of the conversion; time to read and decode 6 of 24 frames against all, from our file and
from a published one (AVI videos, needs `pip install av`); bytes per scene and key, of the TFRecord and of our file.
Without --src_dir the scenes are drawn: noisy pictures and smooth fields with objects, 24 frames of 256x256.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.table import Line, Options, seconds
from object_centric_bench.datum import movi_source, tfrecord
from object_centric_bench.datum.clip import FixedClip
from object_centric_bench.datum.movi import MOVi, convert
from object_centric_bench.datum.record import pack
from object_centric_bench.datum.transform import RandomCrop, RandomFlip, Resize
from tests.datum.examples import feature, write_scenes
from tests.datum.stores import published

FRAMES, SIDE, OBJECTS = 24, 256, 10
CLIP, SCENES, TARGET = 6, 2, 4.0
REPEATS = 5  # the best counts: other work on the machine only slows down
NAMES = {
    "video": "video", "segment": "segmentations", "forward_flow": "forward_flow", "backward_flow": "backward_flow",
    "depth": "depth",
}  # fmt: skip


def draw_scene(rng: np.random.Generator) -> dict[str, list | np.ndarray]:
    """Return the features of a drawn scene."""
    segment = np.zeros((FRAMES, SIDE, SIDE), np.uint8)
    fields = np.stack([_smooth(rng, 6, 5) for _ in range(FRAMES)])
    box = np.zeros((OBJECTS, FRAMES, 4), np.float32)
    for identity in range(OBJECTS):
        (top, left), (height, width) = rng.integers(0, 150, 2), rng.integers(20, 60, 2)
        motion = rng.standard_normal(5)
        for frame in range(FRAMES):
            part = slice(top + frame, top + frame + height), slice(left + frame, left + frame + width)
            segment[frame][part] = identity + 1
            fields[frame][part] += motion
            edges = part[0].start, part[1].start, part[0].stop, part[1].stop
            box[identity, frame] = np.array(edges, np.float32) / SIDE
    video = np.stack([_smooth(rng, 40, 60, 3) + 128 for _ in range(FRAMES)])
    video = np.clip(video + 4 * rng.standard_normal(video.shape), 0, 255).astype(np.uint8)
    levels = (fields - fields.min()) / (fields.max() - fields.min()) * 65535
    bounds = np.array([fields.min(), fields.max()], np.float32)
    return {
        "video": [_png(frame) for frame in video],
        "segmentations": [_png(frame) for frame in segment],
        "depth": [_png(frame.astype(np.uint16)) for frame in levels[..., 4]],
        "backward_flow": levels[..., :2].astype(np.int64).ravel(),
        "forward_flow": levels[..., 2:4].astype(np.int64).ravel(),
        "instances/bboxes/ragged_flat_values": box.ravel(),
        "instances/bboxes/ragged_row_lengths_0": np.full(OBJECTS, FRAMES),
        "instances/bbox_frames/ragged_flat_values": np.tile(np.arange(FRAMES), OBJECTS),
        "instances/bbox_frames/ragged_row_lengths_0": np.full(OBJECTS, FRAMES),
        "instances/visibility": np.full(OBJECTS * FRAMES, 100),
        "metadata/video_name": [b"drawn"],
        **{f"metadata/{name}": bounds for name in movi_source.RANGES},
    }


def _smooth(rng: np.random.Generator, cells: int, scale: float, channels: int = 5) -> np.ndarray:
    coarse = rng.standard_normal((cells, cells, channels)).astype(np.float32)
    return cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) * scale


def _png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", picture)[1].tobytes()


def make_published(file: Path, ours: MOVi) -> None:
    """Write the samples of a file of ours as those of 2025 were written."""
    records = []
    for index in range(len(ours)):
        sample, stored = ours.sample(index, np.random.default_rng(0)), ours.reader.read(index)
        depth = np.stack([cv2.imdecode(np.frombuffer(each, np.uint8), -1) for each in stored["depth"]])
        flow = [ours.entry("backward_flow", stored["backward_flow"], index)[:, component] for component in (0, 1)]
        bounds = {
            key: dict(zip(("min", "max"), stored[f"{key}_range"], strict=True)) for key in ("backward_flow", "depth")
        }
        records.append(
            {
                "video": _avi(sample["video"].permute(0, 2, 3, 1).numpy(), "libx264rgb", "rgb24"),
                "segment": _avi(sample["segment"].numpy(), "ffv1", "gray"),
                "bbox": stored["box"],
                "flow": {"data": [_wide(each) for each in flow], **bounds["backward_flow"]},
                "depth": {"data": _wide(depth), **bounds["depth"]},
            }
        )
    published(file, records)


def _wide(frames: np.ndarray) -> io.BytesIO:
    """Return an AVI file of (t h w) uint16, high bytes as red, low bytes as green."""
    return _avi(np.stack([frames >> 8, frames & 255, 0 * frames], axis=3).astype(np.uint8), "libx264rgb", "rgb24")


def _avi(frames: np.ndarray, codec: str, layout: str) -> io.BytesIO:
    import av  # optional

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        stream = container.add_stream(codec, rate=Fraction(12))
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.pix_fmt = layout
        if codec != "ffv1":
            stream.options = {"qp": "0", "preset": "ultrafast", "tune": "fastdecode"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=layout)))
        container.mux(stream.encode(None))
    buffer.seek(0)
    return buffer


def milliseconds(file: Path, keys: list[str], clip: FixedClip | None) -> float:
    """Return the time to read and decode a sample, the best of some repeats, averaged over the samples."""
    dataset = MOVi(file.name, keys, clip=clip, data_dir=str(file.parent))
    totals = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for index in range(len(dataset)):
            dataset.sample(index, np.random.default_rng(0))
        totals.append(time.perf_counter() - start)
    return 1e3 * min(totals) / len(dataset)


def read(file: Path, keys: list[str], clip: FixedClip | None, transforms: list | None = None) -> Callable[[], None]:
    """Return a function that makes all samples of a file."""
    dataset = MOVi(file.name, keys, transforms, clip=clip, data_dir=str(file.parent))

    def run() -> None:
        for index in range(len(dataset)):
            dataset.sample(index, np.random.default_rng(index))

    return run


def lines(options: Options) -> list[Line]:
    """Measure clips of 6 frames against whole videos, of our records and of published ones."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = make_files(folder, folder / "raw", SCENES)
        published_file = folder / "published.lmdb"
        keys = ["video", "segment"]
        augment = [RandomCrop(keys), Resize(keys[:1], SIDE), Resize(keys[1:], SIDE, "nearest-exact"), RandomFlip(keys)]
        first, last = FixedClip(0, CLIP), FixedClip(FRAMES - CLIP, FRAMES)
        plain, part = "plain: decoding the whole published record", f"{CLIP}/{FRAMES} of the time for all frames"
        cases = {
            "training sample, our record": (read(ours.file, keys, last, augment), plain),
            "decoding the first, published record": (read(published_file, keys, first), plain),
            "decoding the last, published record": (read(published_file, keys, last), plain),
            "decoding, our record": (read(ours.file, keys, last), part),
        }
        whole = [read(published_file, keys, None), read(ours.file, keys, None)]
        functions = [function for function, _ in cases.values()] + whole
        times = [1e3 * each / SCENES for each in seconds(functions, options.rounds, time.thread_time)]
    floors = {plain: (times[-2], TARGET), part: (times[-1] * CLIP / FRAMES, None)}
    return [
        Line(f"MOVi, {CLIP} of {FRAMES} frames: {what}", ms, "ms", floors[name][0], name, floors[name][1])
        for (what, (_, name)), ms in zip(cases.items(), times, strict=False)
    ]


def make_files(folder: Path, src_dir: Path, count: int) -> MOVi:
    """Draw scenes, convert them to `train.lmdb` and write them as `published.lmdb` too; return the dataset of ours."""
    draw_source(src_dir, count)
    convert(src_dir, folder, split=("train",), limit=count)
    ours = MOVi("train.lmdb", ["video", "segment"], data_dir=str(folder))
    make_published(folder / "published.lmdb", ours)
    return ours


def draw_source(src_dir: Path, count: int) -> None:
    """Write drawn scenes like an official file."""
    src_dir.mkdir()
    rng = np.random.default_rng(0)
    write_scenes(src_dir / "movi_x-train.tfrecord-00000-of-00001", [draw_scene(rng) for _ in range(count)])


def show_sizes(src_dir: Path, ours: MOVi) -> None:
    """Print bytes per scene and key."""
    items = movi_source.list_split(src_dir, "train", len(ours), skip_bad=False).items
    scenes = [tfrecord.parse(tfrecord.read(item.file, item.offset, item.length)) for item in items]
    records = [ours.reader.read(index) for index in range(len(ours))]
    print(f"{'MB per scene':<26}{'TFRecord':>9}{'ours':>9}")
    for key, name in NAMES.items():
        there = np.mean([len(feature(scene[name])) for scene in scenes]) / 1e6
        here = np.mean([sum(len(value) for _, value in pack({key: record[key]}).values) for record in records]) / 1e6
        print(f"  {key:<24}{there:9.3f}{here:9.3f}")
    there = np.mean([item.length for item in items]) / 1e6
    print(f"  {'whole record, whole file':<24}{there:9.3f}{ours.file.stat().st_size / len(ours) / 1e6:9.3f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.video", description=__doc__.partition("\n")[0])
    parser.add_argument("--src_dir", type=Path, help="official MOVi files [scenes are drawn]")
    parser.add_argument("--count", type=int, default=4, help="scenes to convert or draw [4]")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        src_dir = options.src_dir
        if src_dir is None:
            src_dir = folder / "raw"
            draw_source(src_dir, options.count)
        start = time.perf_counter()
        convert(src_dir, folder, split=("train",), limit=options.count)
        elapsed = time.perf_counter() - start
        ours = MOVi("train.lmdb", ["video", "segment"], data_dir=name)
        print(f"convert.py movi           {len(ours) / elapsed:9.1f} scenes/s/core")
        show_sizes(src_dir, ours)
        make_published(folder / "published.lmdb", ours)
        print(f"{'ms to read and decode':<26}{'6 frames':>9}{'24':>9}{'ratio':>9}")
        for title, file in (("ours", "train.lmdb"), ("published", "published.lmdb")):
            for keys in (["video"], ["video", "segment"], ["backward_flow"], ["depth"]):
                clips = FixedClip(0, 6), FixedClip(18, 24), None
                first, last, whole = (milliseconds(folder / file, keys, clip) for clip in clips)
                for place, part in (("first", first), ("last", last)):
                    label = f"{title}, {'+'.join(keys)}, {place}"
                    print(f"  {label:<24} {part:8.1f} {whole:8.1f} {part / whole:8.2f}")


if __name__ == "__main__":
    main()
