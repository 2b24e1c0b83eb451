"""Pictures and videos of any kind that a user brings along: find them, decode them to RGB as a viewer shows them."""

import glob
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .record import DataError

log = logging.getLogger(__name__)

PICTURES = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# formats whose further pictures are told of; not the MPO of cameras, where they are views of the first
ANIMATED = ("AVIF", "GIF", "PNG", "TIFF", "WEBP")
VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".webm"}
WIDE = ("I", "I;16", "I;16B", "I;16L")  # Pillow's modes of 16 bits per pixel


def find_files(paths: list[str]) -> list[Path]:
    """Return the files that paths mean: files themselves, folders (all pictures and videos below), glob patterns.

    Raises:
        DataError: a path means nothing.
    """
    found: dict[Path, None] = {}
    for text in paths:
        path = Path(text)
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in PICTURES | VIDEOS]
        else:
            files = [path] if path.is_file() else sorted(map(Path, glob.glob(text, recursive=True)))
        files = [file for file in files if file.is_file()]
        if not files:
            known = " ".join(sorted(PICTURES | VIDEOS))
            raise DataError(f"{text!r} is no file, no folder with pictures or videos ({known}), and matches none")
        found |= dict.fromkeys(files)
    return list(found)


def is_video(file: Path) -> bool:
    """Tell by its name whether a file is a video."""
    return file.suffix.lower() in VIDEOS


def read_picture(file: str | Path) -> np.ndarray:
    """Return a picture (h w 3) uint8 RGB, upright: see `to_rgb`; of several in one file the first, with a warning.

    Raises:
        DataError: it is missing, damaged, cut off, of an unknown format, or larger than Pillow opens (179 megapixels).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large ones are welcome; huge ones raise
            with Image.open(file) as picture:
                if picture.format in ANIMATED and getattr(picture, "is_animated", False):
                    log.warning("%s holds %d pictures: only the first is used", file, getattr(picture, "n_frames", 2))
                return to_rgb(picture)
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{file} has more than 179 megapixels: scale it down, or cut it into parts") from error
    except Exception as error:  # Pillow's decoders raise many kinds for damaged bytes
        raise DataError(f"{file} cannot be read as a picture ({error})") from error


def to_rgb(picture: Image.Image) -> np.ndarray:
    """Return a picture (h w 3) uint8 RGB as a viewer shows it.

    EXIF's orientation is applied, transparency laid over white, CMYK and palettes are converted, 16 bits cut to 8.

    Raises:
        ValueError: its pixels are floating-point numbers, which have no agreed range.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits per channel")
    if picture.mode in WIDE:
        picture = Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.array(picture.convert("RGB"))


def read_frames(file: Path) -> Iterator[np.ndarray]:
    """Yield the frames of a video, (h w 3) uint8 RGB each, upright as phones note it, decoded one by one.

    Raises:
        DataError: PyAV is not installed, or the file is no video or damaged.
    """
    try:
        import av
    except ImportError as error:
        raise DataError(f"{file}: videos are read by PyAV, which is not installed: pip install av") from error
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise ValueError("it has no video stream")
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                turns = round(frame.rotation / 90)  # counterclockwise; a phone held upright notes a quarter
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
    except Exception as error:  # FFmpeg's many kinds
        raise DataError(f"{file} cannot be read as a video ({error})") from error


def frame_rate(file: Path) -> float:
    """Return the frames per second that a video states, 25 if it states none; call it after `read_frames` worked."""
    import av

    with av.open(str(file)) as container:
        return float(container.streams.video[0].average_rate or 25)


def stated_frames(file: Path) -> int | None:
    """Return how many frames a video states to have; None if it states nothing or cannot be read."""
    try:
        import av

        with av.open(str(file)) as container:
            return container.streams.video[0].frames or None
    except Exception:  # what is wrong with it, `read_frames` tells
        return None
