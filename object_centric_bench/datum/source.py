"""Read the files of an official download, with errors that name them."""

import io
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from .dataset import decode_image
from .record import DataError, Pixels

SHOWN = 8  # names in a message
PNG = b"\x89PNG\r\n\x1a\n"  # the first bytes of such a file


def expect_folder(folder: Path, dataset: str) -> Path:
    """Return the folder.

    Raises:
        DataError: there is none; the text says what is there instead.
    """
    if not folder.is_dir():
        raise DataError(f"the folder {folder} is missing. {there(folder.parent)}{see(dataset)}")
    return folder


def expect_file(file: Path, dataset: str) -> Path:
    """Return the file; errors as for `expect_folder`."""
    if not file.is_file():
        raise DataError(f"{file} is missing. {there(file.parent)}{see(dataset)}")
    return file


def see(dataset: str) -> str:
    """Return where the expected folder tree is drawn."""
    return f"See what is expected: python convert.py {dataset} --help"


def there(folder: Path) -> str:
    """Return a sentence on what a folder holds."""
    if not folder.is_dir():
        return f"{folder} is no folder. "
    names = sorted(path.name for path in folder.iterdir())
    return f"{folder} holds {', '.join(names[:SHOWN]) or 'nothing'}{' ...' if len(names) > SHOWN else ''}. "


def missing_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files that are not there; each folder is listed once, which is faster than asking for each file."""
    listed: dict[Path, set[str]] = {}
    missing = []
    for path in paths:
        if path.parent not in listed:
            folder = path.parent
            listed[folder] = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        if path.name not in listed[path.parent]:
            missing.append(path)
    return missing


def report(bad: list[str], skip_bad: bool, what: str) -> tuple[str, ...]:
    """Return the messages about items left out when listing a source.

    Raises:
        DataError: there are some and `skip_bad` is False.
    """
    if bad and not skip_bad:
        more = f"\n  ... and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise DataError(
            f"{what}: {len(bad)} bad:\n  " + "\n  ".join(bad[:SHOWN]) + more + "\nLeave them out with --skip_bad."
        )
    return tuple(bad)


def read_json(file: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        DataError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{file} is no valid JSON ({error}); download it again") from error


def check_image(encoded: bytes, file: Path) -> tuple[int, int]:
    """Return height and width of a JPEG or PNG picture that is whole.

    A JPEG is decoded to an eighth of its size, which costs a third of the time and notices a missing end as well.

    Raises:
        DataError: it is empty, cut off, or no picture.
    """
    if not encoded:
        raise DataError(f"{file} is empty; download it again")
    if encoded[:8] == PNG:
        check_png(encoded, file)
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            width, height = picture.size
            picture.draft("L", (width // 8, height // 8))
            picture.load()
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise DataError(f"{file} is {_fault(error)}; download it again") from error
    return height, width


def stored_picture(encoded: bytes, file: Path | str, pixels: bool) -> bytes | Pixels:
    """Return a picture as it goes into a record: the bytes of its file or, with `pixels`, decoded.

    Args:
        encoded: a JPEG, PNG or WebP file.
        file: for the message.
        pixels: whether to decode, exactly as datasets do it when they read an encoded one.

    Raises:
        DataError: it cannot be decoded.
    """
    if not pixels:
        return encoded
    array = decode_image(encoded)
    if array is None:
        raise DataError(f"{file} cannot be decoded; download it again")
    return Pixels(array)


def _fault(error: Exception) -> str:
    # Pillow's words for what it does not know name an object's address, which differs from run to run
    return "no picture" if isinstance(error, UnidentifiedImageError) else f"cut off or damaged ({error})"


def decode_colours(encoded: bytes, file: Path) -> np.ndarray:
    """Decode a PNG whose colours are ids.

    Returns:
        (h w) uint32, R + 256 G + 65536 B.

    Raises:
        DataError: it cannot be decoded.
    """
    check_png(encoded, file)
    label = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if label is None:
        raise DataError(f"{file} cannot be decoded; download it again")
    return cv2.cvtColor(label, cv2.COLOR_BGR2RGBA).view("<u4")[:, :, 0] & 0xFFFFFF


def decode_indices(encoded: bytes, file: Path) -> np.ndarray:
    """Decode a palette or grey PNG to the indices it stores, whatever their colours.

    Returns:
        (h w) uint8.

    Raises:
        DataError: it cannot be decoded, or is neither.
    """
    check_png(encoded, file)
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            mode = picture.mode
            array = np.array(picture)
    except Exception as error:
        raise DataError(f"{file} is {_fault(error)}; download it again") from error
    if mode not in ("P", "L") or array.dtype != np.uint8:
        raise DataError(
            f"{file} has mode {mode}, expected is a PNG with a palette; a program changed it, download it again"
        )
    return array


def check_png(encoded: bytes, file: Path) -> None:
    """Raise `DataError` unless all parts of a PNG are there, with right checksums: decoders overlook much."""
    if not encoded:
        raise DataError(f"{file} is empty; download it again")
    if encoded[:8] != PNG:
        raise DataError(f"{file} is no PNG; download it again")
    position, kind = 8, b""
    while kind != b"IEND":
        length = int.from_bytes(encoded[position : position + 4], "big")
        kind, end = encoded[position + 4 : position + 8], position + 12 + length
        if end > len(encoded):
            raise DataError(f"{file} is cut off, its end is missing; download it again")
        stored = int.from_bytes(encoded[end - 4 : end], "big")
        if zlib.crc32(memoryview(encoded)[position + 4 : end - 4]) != stored:
            raise DataError(f"{file} is damaged, a checksum does not match; download it again")
        position = end


def compact(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the non-zero ids of a label map 1..n, rising.

    Args:
        ids: (h w) unsigned or signed integers, not negative; 0 = background.

    Returns:
        found: (n) of the same type, rising.
        segment: (h w) uint8, or uint16 or uint32 if n needs it; 0 = background.
    """
    # neighbours are mostly equal: only the first pixel of a run has to be looked up
    flat = ids.ravel()
    first = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    first = np.concatenate([[0], first])
    found, ranks = np.unique(flat[first], return_inverse=True)
    background = int(found[0] == 0)
    ranks = (ranks + (1 - background)).astype(np.min_scalar_type(len(found)))
    segment = np.repeat(ranks, np.diff(first, append=len(flat)))
    return found[background:], segment.reshape(ids.shape)
