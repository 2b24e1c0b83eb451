"""Shapes: textured shapes on textured backgrounds, drawn here, for demos and tests. No benchmark: cite no number.

It is made for models on frozen natural-image features: saturated objects of moderate size on calmer backgrounds.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ..registry import register
from . import conversion
from .dataset import RENDERED, Dataset
from .record import DataError, Packed, pack

SOURCE = """Nothing to download: scenes are drawn by this program, from the seed. For demos and tests."""
SPLITS = ("train", "val")  # a split's position is part of its seed
MIN_OBJECTS, MAX_OBJECTS = 2, 6
MIN_RADIUS, MAX_RADIUS = 13 / 128, 28 / 128  # of the picture's side
APART = 0.6  # probability that an object is placed where it covers no other
MIN_VISIBLE = 0.5  # share of its own area that an object must show
# A third of the size of PNG and decoded three times as fast; colours are not subsampled, so outlines stay sharp.
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
ATTEMPTS = 20  # places tried for an object before it is left out


@register
class Shapes(Dataset):
    """Dataset of drawn shapes, for demos and tests; made by `convert.py shapes`.

    Args: see `Dataset`. Keys: image, segment.
    """

    store = "shapes"
    command = "python convert.py shapes --dst_dir OUT"
    without = RENDERED

    def __init__(self, file: str, keys: list[str], transforms: list | None = None, data_dir: str = "."):
        super().__init__(file, keys, transforms, data_dir)


def convert(
    dst_dir: str | Path,
    num_train: int = 3000,
    num_val: int = 300,
    size: int = 128,
    seed: int = 0,
    split: tuple[str, ...] = ("train", "val"),
    workers: int = 0,
    limit: int | None = None,
    force: bool = False,
) -> None:
    """Draw `dst_dir/train.lmdb` and `dst_dir/val.lmdb`; the same bytes for any number of workers.

    Args:
        dst_dir: folder, made if missing.
        num_train: scenes in the train split.
        num_val: scenes in the val split.
        size: side of the square pictures, pixels.
        seed: non-negative; each scene is drawn from (seed, split, index).
        split: which of train and val.
        workers: processes; 0 draws here.
        limit: draw only that many of each split.
        force: start from nothing and replace existing files.

    Raises:
        DataError: a file exists or cannot be written.
    """
    conversion.check(split, SPLITS, limit)
    if seed < 0:
        raise DataError(f"--seed is at least 0, got {seed}")
    jobs = {
        name: functools.partial(_job, position, min(count, limit or count), size, seed)
        for position, (name, count) in enumerate(zip(SPLITS, (num_train, num_val), strict=True))
        if name in split
    }
    conversion.run(Shapes.store, dst_dir, jobs, workers=workers, force=force)


def _job(position: int, count: int, size: int, seed: int) -> conversion.Job:
    scene = functools.partial(_scene, seed=seed, split=position, size=size)
    attributes = {"source": "drawn by object_centric_bench.datum.shapes", "seed": seed, "size": size}
    return conversion.Job(range(count), scene, attributes=attributes)


def _scene(index: int, seed: int, split: int, size: int) -> Packed:
    image, segment = render(np.random.default_rng([seed, split, index]), size)
    _, encoded = cv2.imencode(".jpg", image[:, :, ::-1], JPEG)
    return pack({"image": encoded.tobytes(), "segment": segment, "source_id": f"{SPLITS[split]}_{index:06d}"})


def render(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene.

    Args:
        rng: source of all choices.
        size: side of the picture, pixels.

    Returns:
        image: (h w 3) uint8 RGB.
        segment: (h w) uint8, 0 = background, visible objects 1..n from back to front.
    """
    light = unit(rng.uniform(0, 2 * np.pi))
    while True:
        canvas, background_hue = background(rng, size, light)
        segment = np.zeros((size, size), np.uint8)
        areas = [0]
        hues = [background_hue]
        for _ in range(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1)):
            _add_object(rng, canvas, segment, areas, hues, light)
        if len(areas) > MIN_OBJECTS:  # the first entry is the background
            return np.clip(canvas, 0, 255).astype(np.uint8), segment


def background(rng: np.random.Generator, size: int, light: np.ndarray) -> tuple[np.ndarray, float]:
    """Return (h w 3) float32 in [0, 255], calm: little saturation, low contrast; and its hue."""
    hue = rng.uniform()
    colour = _colour(hue, rng.uniform(0.05, 0.3), rng.uniform(0.35, 0.75))
    y, x = _grid(size)
    texture = 0.05 * _smooth_noise(rng, size, 4) + 0.05 * _smooth_noise(rng, size, 12)
    texture += rng.uniform(0.0, 0.07) * _pattern(rng, x, y, rng.uniform(0.12, 0.3) * size)
    texture += 0.03 * rng.standard_normal((size, size), dtype=np.float32)
    shade = 1 + texture + 0.1 * (x * light[0] + y * light[1]) / size
    return colour * shade[:, :, None], hue


def _add_object(
    rng: np.random.Generator,
    canvas: np.ndarray,
    segment: np.ndarray,
    areas: list[int],
    hues: list[float],
    light: np.ndarray,
) -> None:
    """Draw an object in front of all others, in place, unless no place leaves all of them visible enough."""
    size = len(segment)
    shape = SHAPES[rng.integers(len(SHAPES))]
    angle = rng.uniform(0, 2 * np.pi)
    hue = distant_hue(rng, hues)
    apart = rng.uniform() < APART
    for _ in range(ATTEMPTS):
        radius = rng.uniform(MIN_RADIUS, MAX_RADIUS) * size
        centre = rng.uniform(0.7 * radius, size - 0.7 * radius, 2)  # y, x; a little may leave the picture
        low = np.maximum(np.floor(centre - 1.25 * radius), 0).astype(int)
        high = np.minimum(np.ceil(centre + 1.25 * radius) + 1, size).astype(int)
        patch = (slice(low[0], high[0]), slice(low[1], high[1]))
        y = np.arange(low[0], high[0], dtype=np.float32)[:, None] - np.float32(centre[0])
        x = np.arange(low[1], high[1], dtype=np.float32)[None, :] - np.float32(centre[1])
        cosine, sine = np.float32(np.cos(angle) / radius), np.float32(np.sin(angle) / radius)
        u, v = cosine * x + sine * y, cosine * y - sine * x  # the object's own axes, radius 1
        distance = shape(u, v) * np.float32(radius)  # pixels, negative inside
        inside = distance < 0
        covered = np.bincount(segment[patch][inside], minlength=len(areas))
        if apart and covered[1:].any():
            continue
        seen = np.bincount(segment.ravel(), minlength=len(areas)) - covered
        if all(seen[i] >= MIN_VISIBLE * areas[i] for i in range(1, len(areas))):
            break
    else:
        return
    coat = paint(rng, u, v, hue, light @ np.array([[cosine, -sine], [sine, cosine]], np.float32) * radius)
    stamp(canvas[patch], segment[patch], coat, distance, len(areas))
    areas.append(int(inside.sum()))
    hues.append(hue)


def stamp(canvas: np.ndarray, segment: np.ndarray, coat: np.ndarray, distance: np.ndarray, label: int) -> None:
    """Put an object in front of what is there, in place, with soft edges and a darker rim.

    Args:
        canvas: (h w 3) float32 in [0, 255].
        segment: (h w) uint8.
        coat: (h w 3) float32 in [0, 255], the object's surface.
        distance: (h w) float32, pixels from its outline, negative inside.
        label: its number in the segment.
    """
    alpha = np.clip(0.5 - distance, 0, 1)[:, :, None]
    rimmed = coat * (1 - 0.35 * np.exp(np.minimum(distance, 0) / 1.5))[:, :, None]
    canvas += alpha * (rimmed - canvas)
    segment[distance < 0] = label


def paint(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, hue: float, light: np.ndarray) -> np.ndarray:
    """Return an object's surface, (h w 3) float32 in [0, 255]: saturated, textured, lit from one side."""
    saturation, value = rng.uniform(0.7, 1.0), rng.uniform(0.65, 1.0)
    first = _colour(hue, saturation, value)
    second = _colour(
        hue + rng.uniform(-0.06, 0.06), saturation * rng.uniform(0.5, 1.0), value * rng.uniform(0.45, 0.75)
    )
    kind = rng.integers(3)
    if kind == 0:
        mix = np.zeros_like(u)
    elif kind == 1:
        mix = np.clip(0.5 + 0.5 * _pattern(rng, u, v, rng.uniform(0.45, 0.9)), 0, 1)
    else:
        noise = rng.standard_normal((7, 7), dtype=np.float32)
        mix = np.clip(0.5 + 0.45 * cv2.resize(noise, u.shape[::-1], interpolation=cv2.INTER_CUBIC), 0, 1)
    shade = 1 + 0.28 * (u * light[0] + v * light[1]) - 0.12 * (u * u + v * v)
    return (first + mix[:, :, None] * (second - first)) * shade[:, :, None]


def distant_hue(rng: np.random.Generator, hues: list[float]) -> float:
    """Return the hue, of six drawn, that is farthest from those there are (circular)."""
    drawn = rng.uniform(size=6)
    gap = np.abs(drawn[:, None] - np.array(hues)[None, :]) % 1
    return float(drawn[np.minimum(gap, 1 - gap).min(axis=1).argmax()])


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """Return RGB (3) float32 in [0, 255]; hue 0..1 is circular."""
    sector = (np.float32(hue) * 6 + np.array([5, 3, 1], np.float32)) % 6
    fall = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    return (255 * value * (1 - saturation * fall)).astype(np.float32)


def _pattern(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """Return stripes, checks or dots between -1 and 1, with soft edges."""
    angle = rng.uniform(0, np.pi)
    frequency = 2 * np.pi / period
    cosine, sine = np.float32(frequency * np.cos(angle)), np.float32(frequency * np.sin(angle))
    first = np.sin(cosine * x + sine * y + np.float32(rng.uniform(0, 6)))
    kind = rng.integers(3)
    if kind == 0:
        return np.clip(3 * first, -1, 1)
    second = np.sin(cosine * y - sine * x + np.float32(rng.uniform(0, 6)))
    return np.clip(6 * first * second, -1, 1) if kind == 1 else np.clip(3 * (first + second - 0.8), -1, 1)


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    noise = rng.standard_normal((cells, cells), dtype=np.float32)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)


@functools.cache
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return y (h 1) and x (1 w), pixels from the centre."""
    axis = np.arange(size, dtype=np.float32) - (size - 1) / 2
    return axis[:, None], axis[None, :]


def unit(angle: float) -> np.ndarray:
    """Return the direction (2) float32 of an angle in radians."""
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


# Signed distances (negative inside) of shapes of radius about 1, as functions of (h w) coordinates; exact near the
# outline, which is all that smooth edges need. The formulas are the usual ones for boxes, half planes and circles.


def _circle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - np.float32(0.9)


def _ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # first order: implicit function over the length of its gradient
    a, b = np.float32(1.1), np.float32(0.65)
    scaled = np.hypot(u / a, v / b)
    return scaled * (scaled - 1) / np.maximum(np.hypot(u / a**2, v / b**2), np.float32(1e-6))


def _box(u: np.ndarray, v: np.ndarray, half_u: float, half_v: float, corner: float = 0.0) -> np.ndarray:
    beyond_u, beyond_v = np.abs(u) - np.float32(half_u - corner), np.abs(v) - np.float32(half_v - corner)
    outside = np.hypot(np.maximum(beyond_u, 0), np.maximum(beyond_v, 0))
    return outside + np.minimum(np.maximum(beyond_u, beyond_v), 0) - np.float32(corner)


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _box(u, v, 0.8, 0.8)


def _rounded_box(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _box(u, v, 1.0, 0.62, corner=0.3)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.minimum(_box(u, v, 1.0, 0.38), _box(u, v, 0.38, 1.0))


def _polygon(u: np.ndarray, v: np.ndarray, corners: int, circumradius: float) -> np.ndarray:
    inradius = np.float32(circumradius * np.cos(np.pi / corners))
    sides = [unit(2 * np.pi * i / corners) for i in range(corners)]
    return functools.reduce(np.maximum, (side[0] * u + side[1] * v for side in sides)) - inradius


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _polygon(u, v, 3, 1.15)


def _pentagon(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _polygon(u, v, 5, 1.0)


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # all ten edges are one, after turning each point into the same tenth of the circle
    tenth = np.float32(np.pi / 5)
    angle = np.abs((np.arctan2(v, u) + tenth) % (2 * tenth) - tenth)
    length = np.hypot(u, v)
    inner = np.float32(0.55) * unit(np.pi / 5)
    edge = inner - np.array([1.15, 0], np.float32)
    edge /= np.hypot(*edge)
    along_u, along_v = length * np.cos(angle) - np.float32(1.15), length * np.sin(angle)
    return along_v * -edge[0] + along_u * edge[1]


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(u, v) - np.float32(0.72)) - np.float32(0.28)


SHAPES: list[Callable[[np.ndarray, np.ndarray], np.ndarray]] = [
    _circle, _ellipse, _square, _rounded_box, _cross, _triangle, _pentagon, _star, _ring,
]  # fmt: skip
