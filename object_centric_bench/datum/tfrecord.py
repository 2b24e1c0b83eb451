"""Read TFRecord files and the `tf.train.Example` messages in them, without TensorFlow.

A file is a sequence of records: the length (8 bytes, little endian), a checksum of these bytes, the data, a checksum of
the data. Checksums are CRC-32C, rotated and shifted by a constant. An Example is a protocol buffer: a dict from names
to lists of bytes, floats or integers.
"""

import os
import struct
from collections.abc import Collection, Iterator
from pathlib import Path

import google_crc32c
import numpy as np

from .record import DataError

HEADER, FOOTER = 12, 4  # bytes around the data
MAX_RECORD = 1 << 29  # bytes; a video of 24 frames of 512x512 takes a third
BLOCK = 1 << 16  # bytes of varints decoded at a time: the arrays stay in the processor's cache
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers
BYTES_LIST, FLOAT_LIST, INT64_LIST = 1, 2, 3  # field numbers in a Feature

Values = list[bytes] | np.ndarray


def index(file: Path) -> list[tuple[int, int]]:
    """Return where the records of a file lie: (offset, length of the data) each; the data are not read.

    Args:
        file: the TFRecord file.

    Raises:
        DataError: it cannot be read, is empty or cut short, or a length is damaged; with the byte where that is.
    """
    return list(walk(file))


def walk(file: Path) -> Iterator[tuple[int, int]]:
    """Yield what `index` returns, up to the first damage."""
    try:
        with file.open("rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            if not size:
                raise DataError(f"{file} is empty; download it again")
            offset = 0
            while offset < size:
                stream.seek(offset)
                length = _length(stream.read(HEADER), file, offset)
                end = offset + HEADER + length + FOOTER
                if end > size:
                    raise DataError(_cut(file, offset, f"its record ends at byte {end}, the file at byte {size}"))
                yield offset, length
                offset = end
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error


def read(file: Path, offset: int, length: int) -> bytes:
    """Return the data of a record.

    Args:
        file: the TFRecord file.
        offset: of the record, bytes.
        length: of the data, bytes.

    Raises:
        DataError: the file cannot be read or is cut short, another length stands there, or a checksum does not match.
    """
    try:
        with file.open("rb", buffering=0) as stream:
            stream.seek(offset)
            stated = _length(stream.read(HEADER), file, offset)
            if stated != length:
                raise DataError(f"{file}, byte {offset}: the record has {stated} bytes, not {length}; has it changed?")
            data, checksum = stream.read(length), stream.read(FOOTER)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    if len(data) < length or len(checksum) < FOOTER:
        raise DataError(_cut(file, offset, f"{len(data)} bytes of {length}"))
    if masked_checksum(data) != struct.unpack("<I", checksum)[0]:
        raise DataError(f"{file}, byte {offset}: checksum of the record's {length} bytes is wrong; download it again")
    return data


def _length(header: bytes, file: Path, offset: int) -> int:
    if len(header) < HEADER:
        raise DataError(_cut(file, offset, f"{len(header)} bytes of a record's head"))
    length, checksum = struct.unpack("<QI", header)
    if masked_checksum(header[:8]) != checksum:
        raise DataError(
            f"{file}, byte {offset}: checksum of the record's length is wrong; the file is damaged or no TFRecord "
            "file; download it again"
        )
    if length > MAX_RECORD:
        raise DataError(f"{file}, byte {offset}: a record of {length} bytes; at most {MAX_RECORD} are read")
    return length


def _cut(file: Path, offset: int, what: str) -> str:
    return f"{file}, byte {offset}: the file is cut short, {what}; download it again"


def masked_checksum(data: bytes) -> int:
    """Return the CRC-32C of some bytes in the form that TFRecord files keep: rotated and shifted, 32 bits."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


# ---------------------------------------------------------------------------------------------------------- messages


def parse(data: bytes, names: Collection[str] | None = None, where: str = "record") -> dict[str, Values]:
    """Decode a `tf.train.Example`.

    Memory: besides the result, which has 8 bytes per integer, only views of `data` and some small arrays.

    Args:
        data: the message.
        names: features to decode; those it lacks are left out; None means all.
        where: file and record, for messages.

    Returns:
        name -> list of bytes, (n) float32, or (n) int64; an empty list if the feature has no kind.

    Raises:
        DataError: it is no such message, or damaged.
    """
    found = {}
    for number, wire, features in _fields(memoryview(data), where):
        if number != 1:
            continue
        for number, wire_inside, entry in _fields(_message(features, wire, where), where):
            if number != 1:
                continue
            name, feature = _entry(_message(entry, wire_inside, where), where)
            if names is None or name in names:
                found[name] = feature  # as in protocol buffers, the last of equal names counts
    return {name: _values(feature, f"{where}, feature {name!r}") for name, feature in found.items()}


def _entry(view: memoryview, where: str) -> tuple[str, memoryview]:
    """Return name and feature of an entry of the map."""
    parts = {1: memoryview(b""), 2: memoryview(b"")}
    for number, wire, value in _fields(view, where):
        if number in parts:
            parts[number] = _message(value, wire, where)
    return bytes(parts[1]).decode(errors="replace"), parts[2]


def _values(feature: memoryview, where: str) -> Values:
    kind = 0
    parts: list[memoryview] = []
    for number, wire, value in _fields(feature, where):
        if number in (BYTES_LIST, FLOAT_LIST, INT64_LIST):
            if number != kind:  # one of the three: the last counts
                kind, parts = number, []
            parts.append(_message(value, wire, where))
    elements = (element[1:] for part in parts for element in _fields(part, where) if element[0] == 1)
    if kind == FLOAT_LIST:
        return _floats(elements, where)
    if kind == INT64_LIST:
        return _integers(elements, where)
    return [bytes(_message(value, wire, where)) for wire, value in elements]


def _floats(elements: Iterator[tuple[int, int | memoryview]], where: str) -> np.ndarray:
    found = bytearray()  # one array for packed and single numbers
    for wire, value in elements:
        if wire not in (LENGTH, FIXED32) or isinstance(value, int) or len(value) % 4:
            raise DataError(f"{where}: damaged list of floats; download the file again")
        found += value
    return np.frombuffer(found, "<f4")


def _integers(elements: Iterator[tuple[int, int | memoryview]], where: str) -> np.ndarray:
    arrays, single = [], []
    for wire, value in elements:
        if wire == VARINT:
            single.append(value)
            continue
        if wire != LENGTH or isinstance(value, int):
            raise DataError(f"{where}: damaged list of integers; download the file again")
        arrays += [np.array(single, np.uint64).view(np.int64), decode_varints(value, where)]
        single = []
    arrays.append(np.array(single, np.uint64).view(np.int64))
    arrays = [array for array in arrays if array.size]
    return arrays[0] if len(arrays) == 1 else np.concatenate([np.empty(0, np.int64), *arrays])


def decode_varints(data: bytes | memoryview, where: str = "record") -> np.ndarray:
    """Decode numbers of 7 bits per byte, the lowest first, all bytes but the last of a number above 127.

    Args:
        data: 1 to 10 bytes per number; negative ones, in two's complement, take 10.
        where: for messages.

    Returns:
        (n) int64.

    Raises:
        DataError: a number is longer, or its end is missing.
    """
    source = np.frombuffer(data, np.uint8)
    numbers = np.empty(np.count_nonzero(source < 128), np.uint64)
    start = done = 0
    while start < len(source):
        block = source[start : start + BLOCK]
        ends = np.flatnonzero(block < 128)
        lengths = np.diff(ends, prepend=-1)
        if not ends.size or lengths.max() > 10 or (start + BLOCK >= len(source) and ends[-1] != len(block) - 1):
            raise DataError(f"{where}: damaged integers; download the file again")
        value: np.ndarray = block[ends].astype(np.uint64)
        shortest = lengths.min()
        for k in range(1, lengths.max()):
            longer = (value << 7) | (block[ends - k] & 127)  # a number shorter than that reads a neighbour's byte ...
            value = longer if k < shortest else np.where(lengths > k, longer, value)  # ... and is not changed
        numbers[done : done + len(ends)] = value
        start += ends[-1] + 1
        done += len(ends)
    return numbers.view(np.int64)


def _message(value: int | memoryview, wire: int, where: str) -> memoryview:
    if wire != LENGTH or isinstance(value, int):
        raise DataError(f"{where}: is no tf.train.Example, or damaged; download the file again")
    return value


def _fields(view: memoryview, where: str) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yield number, wire type and value of a message's fields."""
    position, end = 0, len(view)
    while position < end:
        tag, position = _varint(view, position, where)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, position = _varint(view, position, where)
            yield number, wire, value
            continue
        if wire == LENGTH:
            length, position = _varint(view, position, where)
        else:
            length = {FIXED64: 8, FIXED32: 4}.get(wire, -1)
        if not number or not 0 <= length <= end - position:
            raise DataError(f"{where}: is no tf.train.Example, or damaged; download the file again")
        yield number, wire, view[position : position + length]
        position += length


def _varint(view: memoryview, position: int, where: str) -> tuple[int, int]:
    """Return an unsigned number of at most 64 bits and the position after it."""
    value = 0
    for k, byte in enumerate(view[position : position + 10]):
        value |= (byte & 127) << (7 * k)
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, position + k + 1
    raise DataError(f"{where}: is no tf.train.Example, or damaged; download the file again")
