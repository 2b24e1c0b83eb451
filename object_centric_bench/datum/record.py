"""How a sample becomes bytes and back: MessagePack with a checksum, no pickle.

A sample has a main value, and one value per element of each list, so that six frames of a video can be read without the
others. A value is four bytes CRC-32 (little endian) and a MessagePack object. Pictures are kept as the bytes of their
JPEG or PNG file; an array is MessagePack extension 1, itself a MessagePack list: dtype (such as `<u2`), shape,
compression ("" or "zstd"), bytes; extension 2 stands for a list and holds its length.

A picture can also be stored decoded, which costs room and saves its decoding. Extension 3 then stands for it in the
main value, a list: height, width, rows per band, CRC-32C of each band. Its pixels, nothing else, are a value of their
own. That checksum takes a fifth of the time of CRC-32, which counts where nothing else is left to do.
"""

import struct
import zlib
from typing import Any, NamedTuple

import google_crc32c
import msgpack
import numpy as np
import zstandard

ARRAY_CODE, LIST_CODE, PIXELS_CODE = 1, 2, 3  # MessagePack extension types
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAX_INFLATED = 1 << 30  # bytes; no entry of a record is larger
SMALL = 1024  # bytes; smaller arrays are not compressed
BAND = 1 << 16  # bytes of pixels under one checksum: few enough to be still in the core's cache when they are copied


class DataError(ValueError):
    """Data that cannot be used or written; the text names the file and says what to do."""


class Packed(NamedTuple):
    """A sample, ready to be stored."""

    values: tuple[tuple[str, bytes], ...]  # what follows the sample's key, "" or such as ".video.0003"; rising
    max_segment: int


class Elements(NamedTuple):
    """Stands for a list whose elements are stored by themselves."""

    count: int  # type: ignore[assignment]  # hides `tuple.count`, which means nothing here


class Pixels(NamedTuple):
    """A picture to be stored decoded: (h w 3) uint8, RGB."""

    array: np.ndarray


class Bands(NamedTuple):
    """Stands for a picture that is stored decoded: its size in pixels, rows per band, and CRC-32C of each band."""

    height: int
    width: int
    rows: int
    checksums: list[int]

    def read(self, stored: memoryview) -> np.ndarray:
        """Return the picture, (h w 3) uint8, RGB, of the value that holds its pixels.

        Raises:
            DataError: size or checksums do not fit.
        """
        height, width, rows, checksums = self
        if not all(type(number) is int and number > 0 for number in (height, width, rows)):
            raise DataError(f"a picture of {height} rows of {width} pixels, in bands of {rows}")
        size = 3 * width * height
        if len(stored) != size or size > MAX_INFLATED or len(checksums) != -(-height // rows):
            raise DataError(f"{len(stored)} bytes and {len(checksums)} checksums are no picture of {width}x{height}")
        pixels, step = np.empty(size, np.uint8), 3 * width * rows
        for start, checksum in zip(range(0, size, step), checksums, strict=True):
            band = bytes(stored[start : start + step])  # the library takes nothing else
            if google_crc32c.value(band) != checksum:
                raise DataError("checksum of a picture does not match, the file is damaged")
            pixels[start : start + step] = np.frombuffer(band, np.uint8)
        return pixels.reshape(height, width, 3)


def pack(record: dict[str, Any]) -> Packed:
    """Encode a sample.

    Args:
        record: str -> bytes, str, int, float, bool, None, array, `Pixels`, or a list of bytes or arrays, one per frame;
            `segment` is a label map (h w) of unsigned integers or a list of them.

    Raises:
        DataError: an array of a kind that is not stored (objects, strings, records), or no picture in `Pixels`.
    """
    main, values = {}, []
    for key, entry in record.items():
        if isinstance(entry, Pixels):
            main[key], pixels = _pack_pixels(entry.array)
            values.append((f".{key}", pixels))
        elif isinstance(entry, list):
            main[key] = msgpack.ExtType(LIST_CODE, msgpack.packb(len(entry)))
            values += [(f".{key}.{n:04d}", seal(msgpack.packb(_pack_array(e)))) for n, e in enumerate(entry)]
        else:
            main[key] = _pack_array(entry)
    segment = record.get("segment", [])
    maps = segment if isinstance(segment, list) else [segment]
    highest = max((int(each.max()) for each in maps if each.size), default=0)
    return Packed((("", seal(msgpack.packb(main))), *sorted(values)), highest)


def unpack(value: bytes | memoryview) -> Any:
    """Return what was packed: for a main value a dict whose arrays are still packed, see `unpack_entry`.

    Raises:
        DataError: the checksum does not match.
    """
    body = memoryview(value)[4:]
    if len(value) < 4 or zlib.crc32(body) != struct.unpack_from("<I", value)[0]:
        raise DataError("checksum does not match, the file is damaged")
    return msgpack.unpackb(body)


def unpack_entry(entry: Any) -> Any:
    """Return an entry of a record, or an element of a list: bytes, numbers and texts as they are, arrays decoded.

    What is stored in values of its own comes as `Elements` or `Bands`.
    """
    if not isinstance(entry, msgpack.ExtType):
        return entry
    if entry.code == LIST_CODE:
        return Elements(msgpack.unpackb(entry.data))
    if entry.code == PIXELS_CODE:
        return Bands(*msgpack.unpackb(entry.data))
    dtype, shape, compression, data = msgpack.unpackb(entry.data)
    if compression:
        data = inflate(data)
    return np.frombuffer(bytearray(data), checked_dtype(dtype)).reshape(shape)  # bytearray: writable, as torch wants


def seal(body: bytes) -> bytes:
    """Return a value: the checksum, then the body."""
    return struct.pack("<I", zlib.crc32(body)) + body


def _pack_array(entry: Any) -> Any:
    if not isinstance(entry, np.ndarray):
        return entry
    if entry.dtype.kind not in "biuf":
        raise DataError(f"arrays of {entry.dtype} are not stored")
    data = entry.astype(entry.dtype.newbyteorder("<")).tobytes()
    compression = "zstd" if entry.ndim >= 2 and len(data) > SMALL else ""  # tables are small, label maps are not
    if compression:
        data = zstandard.ZstdCompressor(level=9).compress(data)
    dtype = entry.dtype.newbyteorder("<").str
    return msgpack.ExtType(ARRAY_CODE, msgpack.packb([dtype, list(entry.shape), compression, data]))


def _pack_pixels(array: np.ndarray) -> tuple[msgpack.ExtType, bytes]:
    """Return what stands for a picture in the main value, and the value with its pixels."""
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise DataError(f"pixels are (h w 3) of uint8, got {array.shape} of {array.dtype}")
    height, width, _ = array.shape
    data, rows = array.tobytes(), max(1, BAND // (3 * width))
    step = 3 * width * rows
    checksums = [google_crc32c.value(data[start : start + step]) for start in range(0, len(data), step)]
    return msgpack.ExtType(PIXELS_CODE, msgpack.packb([height, width, rows, checksums])), data


def inflate(data: bytes) -> bytes:
    """Return what zstd compressed.

    Raises:
        DataError: it is larger than any entry; zstd itself takes a stated size at its word.
    """
    stated = zstandard.frame_content_size(data)  # -1: not stated
    if stated > MAX_INFLATED:
        raise DataError(f"an entry of {stated} bytes; at most {MAX_INFLATED} are read")
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_INFLATED)


def checked_dtype(text: str) -> np.dtype:
    """Return a dtype of numbers.

    Raises:
        DataError: it is one of anything else.
    """
    dtype = np.dtype(text)
    if dtype.kind not in "biuf":
        raise DataError(f"dtype {text!r} is refused: only numbers are read")
    return dtype
