"""Encoded pictures and videos of any file, ours or published: tell the format, decode, fit into a contact sheet."""

import io
from typing import Any

import cv2
import numpy as np

from .dataset import decode_label
from .record import DataError

GREY = ("segment", "semantic", "ignore", "depth")  # entries whose pictures have one channel
CELL = 192  # pixels, side of a picture on a contact sheet


def encoding(value: Any, published: bool) -> str | None:
    """Return the file format of an encoded picture or video, None of anything else.

    Args:
        value: bytes; or, in published files only, a uint8 array of them.
        published: whether the file is one.
    """
    if isinstance(value, bytes):
        head = value[:12]
    elif published and isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.size > 12:
        head = value.ravel()[:12].tobytes()
    else:
        return None
    if head[:4] == b"RIFF":
        return {b"WEBP": "WebP", b"AVI ": "AVI"}.get(head[8:])
    return {b"\xff\xd8": "JPEG", b"\x89P": "PNG"}.get(head[:2])


def decode(key: str, value: bytes | np.ndarray, where: str) -> np.ndarray:
    """Decode a picture as it is stored: (h w) or (h w c), BGR; one channel of label maps, flow and depth.

    Raises:
        DataError: it cannot be decoded.
    """
    if key.split(".")[0] in GREY or ".data" in key:
        return decode_label(value, where)
    array = cv2.imdecode(np.frombuffer(value, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise DataError(f"{where} cannot be decoded; download or make the file again")
    return array


def decode_avi(key: str, value: bytes, where: str) -> np.ndarray | None:
    """Decode a video: (t h w 3) uint8 RGB, (t h w) uint8 of label maps, (t h w) uint16 of flow and depth.

    Returns:
        None if PyAV is missing.

    Raises:
        DataError: it cannot be decoded.
    """
    try:
        import av  # optional: only published MOVi files of 2025 need it
    except ImportError:
        return None
    layout = "gray" if key == "segment" else "rgb24"
    try:
        with av.open(io.BytesIO(value), "r") as container:
            array: np.ndarray = np.stack([frame.to_ndarray(format=layout) for frame in container.decode(video=0)])
    except Exception as error:  # whatever FFmpeg says about damaged bytes
        raise DataError(f"{where} cannot be decoded ({error}); download the file again") from error
    if is_wide(key):
        return (array[..., 0].astype(np.uint16) << 8) | array[..., 1]
    return array


def is_wide(key: str) -> bool:
    """Tell whether an entry holds published flow or depth: 16 bits per pixel, in AVI files as red and green."""
    return ".data" in key


def unstack(key: str, array: np.ndarray) -> list[np.ndarray]:
    """Return the frames of an array (t h w [c]), or an array (h w [c]) as the only one."""
    return list(array) if array.ndim == (4 if key != "segment" else 3) else [array]


def to_rgb(picture: np.ndarray, is_rgb: bool) -> np.ndarray:
    """Return (h w 3) uint8 RGB of a decoded picture, grey or with three or four channels."""
    if picture.dtype == np.uint16:
        picture = (picture >> 8).astype(np.uint8)
    if picture.ndim == 2:
        return np.repeat(picture[..., None], 3, axis=2)
    return picture[..., :3] if is_rgb else picture[..., 2::-1]


def shrink(picture: np.ndarray, interpolation: int) -> np.ndarray:
    """Return a picture (h w [c]) resized so that its long side is `CELL`."""
    height, width = picture.shape[:2]
    scale = CELL / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(np.ascontiguousarray(picture), size, interpolation=interpolation)


def centre(picture: np.ndarray) -> np.ndarray:
    """Return a picture (h w 3) uint8 in the middle of a white square of `CELL` pixels."""
    cell = np.full((CELL, CELL, 3), 255, np.uint8)
    top, left = ((CELL - side) // 2 for side in picture.shape[:2])
    cell[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return cell
