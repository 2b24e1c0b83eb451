"""Moving shapes: the textured shapes of `shapes` in videos, for demos and tests. No benchmark: cite no number.

Objects cross the picture in straight lines, bounce off its border, and hide one another; those behind stay behind.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ..registry import register
from . import conversion, shapes
from .movi import MOVi
from .record import DataError, Packed, pack

SOURCE = """Nothing to download: videos are drawn by this program, from the seed. For demos and tests."""
MIN_OBJECTS, MAX_OBJECTS = 2, 5
MIN_SPEED, MAX_SPEED = 1.5 / 128, 5 / 128  # of the picture's side, per frame
MARGIN = 0.7  # of an object's radius that its centre keeps from the border


@register
class MovingShapes(MOVi):
    """Dataset of drawn shapes that move, for demos and tests; made by `convert.py moving_shapes`.

    Args: see `MOVi`. Keys: video, segment.
    """

    store = "moving_shapes"
    command = "python convert.py moving_shapes --dst_dir OUT"
    offered = ("video", "segment")

    @classmethod
    def recognises(cls, stored: dict[str, Any]) -> bool:
        """Return that no published record is one of this dataset: nobody has published any."""
        return False


class Mover(NamedTuple):
    """An object: shape (a position in `shapes.SHAPES`), radius in pixels, angle, hue, way and the seed of its coat."""

    shape: int
    radius: float
    angle: float
    hue: float
    start: np.ndarray  # y, x, pixels
    velocity: np.ndarray  # y, x, pixels per frame
    seed: int


def convert(
    dst_dir: str | Path,
    num_train: int = 600,
    num_val: int = 100,
    size: int = 128,
    frames: int = 6,
    seed: int = 0,
    split: tuple[str, ...] = ("train", "val"),
    workers: int = 0,
    limit: int | None = None,
    force: bool = False,
) -> None:
    """Draw `dst_dir/train.lmdb` and `dst_dir/val.lmdb`; the same bytes for any number of workers.

    Args:
        dst_dir: folder, made if missing.
        num_train: videos in the train split.
        num_val: videos in the val split.
        size: side of the square pictures, pixels.
        frames: length of the videos.
        seed: non-negative; each video is drawn from (seed, split, index).
        split: which of train and val.
        workers: processes; 0 draws here.
        limit: draw only that many of each split.
        force: start from nothing and replace existing files.

    Raises:
        DataError: a file exists or cannot be written.
    """
    conversion.check(split, shapes.SPLITS, limit)
    if seed < 0:
        raise DataError(f"--seed is at least 0, got {seed}")
    jobs = {
        name: functools.partial(_job, position, min(count, limit or count), size, frames, seed)
        for position, (name, count) in enumerate(zip(shapes.SPLITS, (num_train, num_val), strict=True))
        if name in split
    }
    conversion.run(MovingShapes.store, dst_dir, jobs, workers=workers, force=force)


def _job(position: int, count: int, size: int, frames: int, seed: int) -> conversion.Job:
    sample = functools.partial(_sample, seed=seed, split=position, size=size, frames=frames)
    drawn = {"source": "drawn by object_centric_bench.datum.moving_shapes", "seed": seed, "size": size}
    return conversion.Job(range(count), sample, attributes={**drawn, "frames": frames})


def _sample(index: int, seed: int, split: int, size: int, frames: int) -> Packed:
    video, segment = render(np.random.default_rng([seed, split, index]), size, frames)
    encoded = [cv2.imencode(".jpg", frame[:, :, ::-1], shapes.JPEG)[1].tobytes() for frame in video]
    return pack({"video": encoded, "segment": list(segment), "source_id": f"{shapes.SPLITS[split]}_{index:06d}"})


def render(rng: np.random.Generator, size: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a video.

    Args:
        rng: source of all choices.
        size: side of the picture, pixels.
        frames: length of the video.

    Returns:
        video: (t h w 3) uint8 RGB.
        segment: (t h w) uint8, 0 = background, k = object k in all frames, from back to front.
    """
    light = shapes.unit(rng.uniform(0, 2 * np.pi))
    background, hue = shapes.background(rng, size, light)
    movers: list[Mover] = []
    for _ in range(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1)):
        movers.append(_mover(rng, size, [hue, *(mover.hue for mover in movers)], movers))
    canvases = np.repeat(background[None], frames, axis=0)
    segment = np.zeros((frames, size, size), np.uint8)
    for label, mover in enumerate(movers, start=1):
        for frame in range(frames):
            _draw(canvases[frame], segment[frame], mover, position(mover, frame, size), light, label)
    return np.clip(canvases, 0, 255).astype(np.uint8), segment


def position(mover: Mover, frame: int, size: int) -> np.ndarray:
    """Return where a mover's centre (y, x) is in a frame: a straight way, folded at the border."""
    low = MARGIN * mover.radius
    width = size - 2 * low
    way = (mover.start - low + frame * mover.velocity) % (2 * width)
    return low + np.minimum(way, 2 * width - way)


def _mover(rng: np.random.Generator, size: int, hues: list[float], others: list[Mover]) -> Mover:
    """Draw an object that starts apart from the others if one of some places allows it."""
    radius = rng.uniform(shapes.MIN_RADIUS, shapes.MAX_RADIUS) * size
    starts = rng.uniform(MARGIN * radius, size - MARGIN * radius, (shapes.ATTEMPTS, 2))
    gaps = [
        min((np.hypot(*(start - other.start)) - radius - other.radius for other in others), default=0.0)
        for start in starts
    ]
    free = [start for start, gap in zip(starts, gaps, strict=True) if gap >= 0]
    return Mover(
        shape=int(rng.integers(len(shapes.SHAPES))),
        radius=radius,
        angle=rng.uniform(0, 2 * np.pi),
        hue=shapes.distant_hue(rng, hues),
        start=free[0] if free else starts[int(np.argmax(gaps))],
        velocity=rng.uniform(MIN_SPEED, MAX_SPEED) * size * shapes.unit(rng.uniform(0, 2 * np.pi)),
        seed=int(rng.integers(1 << 32)),
    )


def _draw(
    canvas: np.ndarray, segment: np.ndarray, mover: Mover, centre: np.ndarray, light: np.ndarray, label: int
) -> None:
    """Draw an object in front of what is there, in place; its coat is the same in every frame."""
    size, reach = len(segment), int(np.ceil(1.25 * mover.radius)) + 1
    corner = np.floor(centre).astype(int) - reach
    y, x = (np.arange(low, low + 2 * reach + 1) - at for low, at in zip(corner, centre, strict=True))
    y, x = y[:, None].astype(np.float32), x[None, :].astype(np.float32)
    cosine, sine = np.float32(np.cos(mover.angle) / mover.radius), np.float32(np.sin(mover.angle) / mover.radius)
    u, v = cosine * x + sine * y, cosine * y - sine * x  # the object's own axes, radius 1
    distance = shapes.SHAPES[mover.shape](u, v) * np.float32(mover.radius)  # pixels, negative inside
    turned = light @ np.array([[cosine, -sine], [sine, cosine]], np.float32) * np.float32(mover.radius)
    coat = shapes.paint(np.random.default_rng(mover.seed), u, v, mover.hue, turned)
    low, high = np.maximum(corner, 0), np.minimum(corner + 2 * reach + 1, size)
    there = tuple(slice(*ends) for ends in zip(low, high, strict=True))
    here = tuple(slice(*ends) for ends in zip(low - corner, high - corner, strict=True))
    shapes.stamp(canvas[there], segment[there], coat[here], distance[here], label)
