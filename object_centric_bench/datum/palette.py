"""Label pictures whose pixels are palette indices or colours: one per object."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from . import source

EIGHT_BIT_COLOUR = (b"\x08\x02", b"\x08\x06")  # bit depth and colour type in a PNG's header: RGB and RGBA


def decode_palette(encoded: bytes, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Decode a palette or grey PNG.

    Returns:
        index: (h w) uint8, what the pixels store.
        colours: (256) uint32, R + 256 G + 65536 B of each index.

    Raises:
        DataError: it cannot be decoded, or is neither.
    """
    index = source.decode_indices(encoded, file)
    with Image.open(io.BytesIO(encoded)) as picture:
        rgb = None if picture.palette is None else picture.palette.getdata()[1]
        stored = rgb if picture.mode == "P" and rgb is not None else bytes(np.arange(256, dtype=np.uint8).repeat(3))
    colours = np.zeros(768, np.uint32)  # a palette may be shorter
    colours[: len(stored)] = np.frombuffer(stored, np.uint8)
    return index, colours.reshape(256, 3) @ np.array([1, 1 << 8, 1 << 16], np.uint32)


def number_objects(index: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Number the non-zero indices that occur 1..n by rising colour, and by index where colours are equal.

    Args:
        index: (h w) uint8; 0 = background, whatever its colour.
        colours: (256) uint32, R + 256 G + 65536 B of each index.

    Returns:
        (h w) uint8.
    """
    found = np.flatnonzero(np.bincount(index.ravel(), minlength=256)[1:]) + 1
    lookup = np.zeros(256, np.uint8)
    lookup[found[np.lexsort((found, colours[found]))]] = np.arange(1, len(found) + 1)
    return lookup[index]


def decode_objects(encoded: bytes, file: Path) -> np.ndarray:
    """Decode a label picture to segments 1..n by rising colour.

    Args:
        encoded: a PNG with a palette or grey, index 0 being background; or RGB or RGBA, where black is.
        file: for messages.

    Returns:
        (h w) uint8, or of RGB with more than 255 colours uint16 or uint32; 0 = background.

    Raises:
        DataError: it cannot be decoded, or is none of these.
    """
    if encoded[24:26] in EIGHT_BIT_COLOUR:
        source.check_image(encoded, file)
        return source.compact(source.decode_colours(encoded, file))[1]
    return number_objects(*decode_palette(encoded, file))
