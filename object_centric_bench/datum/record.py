"""How a sample becomes bytes and back: MessagePack with a checksum, no pickle.

A sample has a main value, and one value per element of each list, so that six frames of a video can be read without the
others. A value is four bytes CRC-32 (little endian) and a MessagePack object. Pictures are kept as the bytes of their
JPEG or PNG file; an array is MessagePack extension 1, itself a MessagePack list: dtype (such as `<u2`), shape,
compression ("" or "zstd"), bytes; extension 2 stands for a list and holds its length.
"""

import struct
import zlib
from typing import Any, NamedTuple

import msgpack
import numpy as np
import zstandard

ARRAY_CODE, LIST_CODE = 1, 2  # MessagePack extension types
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAX_INFLATED = 1 << 30  # bytes; no entry of a record is larger
SMALL = 1024  # bytes; smaller arrays are not compressed


class DataError(ValueError):
    """Data that cannot be used or written; the text names the file and says what to do."""


class Packed(NamedTuple):
    """A sample, ready to be stored."""

    values: tuple[tuple[str, bytes], ...]  # what follows the sample's key, "" or such as ".video.0003"; rising
    max_segment: int


class Elements(NamedTuple):
    """Stands for a list whose elements are stored by themselves."""

    count: int  # type: ignore[assignment]  # hides `tuple.count`, which means nothing here


def pack(record: dict[str, Any]) -> Packed:
    """Encode a sample.

    Args:
        record: str -> bytes, str, int, float, bool, None, array, or a list of bytes or arrays, one per frame; `segment`
            is a label map (h w) of unsigned integers or a list of them.

    Raises:
        DataError: an array of a kind that is not stored (objects, strings, records).
    """
    main, values = {}, []
    for key, entry in record.items():
        if isinstance(entry, list):
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
    """Return an entry of a record, or an element of a list: bytes, numbers and texts as they are, arrays decoded."""
    if not isinstance(entry, msgpack.ExtType):
        return entry
    if entry.code == LIST_CODE:
        return Elements(msgpack.unpackb(entry.data))
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
