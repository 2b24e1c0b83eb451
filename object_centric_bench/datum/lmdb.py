"""One store for all datasets: an LMDB file whose records need no pickle, and a reader that also takes published files.

Our format, version 1. Keys `00000000`, `00000001`, ... hold the samples, `__header__` describes the file. A value is
four bytes CRC-32 (little endian) and a MessagePack map. Pictures are kept as the bytes of their JPEG or PNG file; an
array is MessagePack extension 1, itself a MessagePack list: dtype (such as `<u2`), shape, compression ("" or "zstd"),
bytes. The header is the same kind of value and is written last: a file without one is known to be unfinished.

Published files have a pickled list of keys under `__keys__` and a pickled dict per sample. They are decoded without
calling anything a pickle names, see `unpickle`.
"""

import contextlib
import io
import os
import pickle
import struct
import threading
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import msgpack
import numpy as np
import zstandard
from tqdm import tqdm

MAGIC = "object_centric_bench"
VERSION = 1
HEADER_KEY = b"__header__"
PUBLISHED_KEY = b"__keys__"
ARRAY_CODE = 1  # MessagePack extension type of arrays
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
COMMIT_EVERY = 64  # records; bounds the memory of a transaction
MAX_INFLATED = 1 << 30  # bytes; no entry of a record is larger


class DataError(ValueError):
    """Data that cannot be used or written; the text names the file and says what to do."""


@dataclass(frozen=True)
class Header:
    """What a file says about itself."""

    dataset: str
    num_samples: int
    max_segment: int  # largest segment id of any sample; label maps need more than uint8 above 255
    attributes: dict[str, Any] = field(default_factory=dict)
    magic: str = MAGIC
    version: int = VERSION


class Packed(NamedTuple):
    """A sample, ready to be stored."""

    value: bytes
    max_segment: int


# ---------------------------------------------------------------------------------------------------------- encoding


def pack(record: dict[str, Any]) -> Packed:
    """Encode a sample.

    Args:
        record: str -> bytes, str, int, float, bool, None or array; `segment` is a label map (h w) of unsigned integers.

    Raises:
        DataError: an array of a kind that is not stored (objects, strings, records).
    """
    value = _seal(msgpack.packb({key: _pack_array(entry) for key, entry in record.items()}))
    segment = record.get("segment")
    return Packed(value, int(segment.max()) if segment is not None and segment.size else 0)


def _seal(body: bytes) -> bytes:
    return struct.pack("<I", zlib.crc32(body)) + body


def _pack_array(entry: Any) -> Any:
    if not isinstance(entry, np.ndarray):
        return entry
    if entry.dtype.kind not in "biuf":
        raise DataError(f"arrays of {entry.dtype} are not stored")
    data = entry.astype(entry.dtype.newbyteorder("<")).tobytes()
    compression = "zstd" if entry.ndim >= 2 and len(data) > 1024 else ""  # tables are small, label maps are not
    if compression:
        data = zstandard.ZstdCompressor(level=9).compress(data)
    dtype = entry.dtype.newbyteorder("<").str
    return msgpack.ExtType(ARRAY_CODE, msgpack.packb([dtype, list(entry.shape), compression, data]))


def _unpack_array(entry: Any) -> Any:
    if not isinstance(entry, msgpack.ExtType):
        return entry
    dtype, shape, compression, data = msgpack.unpackb(entry.data)
    if compression:
        data = _inflate(data)
    return np.frombuffer(bytearray(data), _checked_dtype(dtype)).reshape(shape)  # bytearray: writable, as torch wants


def _inflate(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_INFLATED)


def _checked_dtype(text: str) -> np.dtype:
    dtype = np.dtype(text)
    if dtype.kind not in "biuf":
        raise DataError(f"dtype {text!r} is refused: only numbers are read")
    return dtype


# ----------------------------------------------------------------------------------------------------------- writing


def write(
    file: str | Path,
    dataset: str,
    samples: Iterable[Packed],
    *,
    total: int | None = None,
    attributes: dict[str, Any] | None = None,
    force: bool = False,
) -> Header:
    """Write a file, whole or not at all: samples go to a temporary file beside it, which is renamed at the end.

    Args:
        file: the target; its folder is made if missing.
        dataset: name that readers ask for.
        samples: in the order in which they will be indexed.
        total: number of samples, for the progress bar.
        attributes: anything else worth keeping, such as the source.
        force: replace an existing target (only when the new one is whole).

    Raises:
        DataError: the target exists, its folder cannot be written, or the disk is full.
    """
    file = Path(file)
    with _replacing(file, force) as temporary, _writable(temporary) as environment:
        count = max_segment = 0
        pending: list[tuple[bytes, bytes]] = []
        for sample in tqdm(samples, desc=file.name, total=total, unit="sample"):
            pending.append((_sample_key(count), sample.value))
            count += 1
            max_segment = max(max_segment, sample.max_segment)
            if len(pending) == COMMIT_EVERY:
                _commit(environment, pending)
                pending = []
        header = Header(dataset, count, max_segment, attributes or {})
        _commit(environment, pending)
        environment.sync(True)  # every sample is on the disk before a header declares the file whole
        _commit(environment, [(HEADER_KEY, _seal(msgpack.packb(asdict(header))))])
        environment.sync(True)
    return header


def refuse_existing(file: Path, force: bool) -> None:
    """Raise `DataError` if the target exists and may not be replaced."""
    if file.is_dir():
        raise DataError(f"{file} is a folder; a file is to be written there")
    if file.exists() and not force:
        raise DataError(f"{file} exists; give another --dst_dir, or --force to replace it")


def _sample_key(index: int) -> bytes:
    return b"%08d" % index


@contextlib.contextmanager
def _replacing(file: Path, force: bool) -> Iterator[Path]:
    """Yield a temporary path beside the file; rename it to the file on success, remove it on any failure."""
    refuse_existing(file, force)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # left by a killed process that had the same number
        yield temporary
        refuse_existing(file, force)  # it may have appeared in the meantime
        os.replace(temporary, file)
        folder = os.open(file.parent, os.O_RDONLY)
        os.fsync(folder)  # the rename itself must survive a crash
        os.close(folder)
    except (OSError, lmdb.Error) as error:
        raise DataError(f"cannot write {file}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _writable(file: Path) -> Iterator[lmdb.Environment]:
    environment = lmdb.open(str(file), subdir=False, lock=False, map_size=1 << 28, sync=False)
    try:
        yield environment
    finally:
        environment.close()


def _commit(environment: lmdb.Environment, pairs: list[tuple[bytes, bytes]]) -> None:
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, value in pairs:
                    transaction.put(key, value, append=True)
            return
        except lmdb.MapFullError:  # nothing of the transaction was kept
            environment.set_mapsize(2 * environment.info()["map_size"])


# ----------------------------------------------------------------------------------------------------------- reading


class Reader:
    """Reads samples of a file, ours or published. Holds no handle itself, so it can be pickled and forked.

    Args:
        file: the LMDB file.
        dataset: the name the file must carry; None accepts any.
        command: how to make such a file, for error messages.

    Attributes:
        file: the path.
        published: whether the records are pickled ones.
        header: what the file says; for published files the number of samples only.

    Raises:
        DataError: the file is missing, empty, cut off, no LMDB file, unfinished, of a newer version, another dataset.
    """

    def __init__(self, file: str | Path, dataset: str | None = None, command: str = "python convert.py DATASET"):
        self.file = Path(file)
        self.command = command
        if not self.file.is_file():
            raise DataError(f"{self.file}: no such file; make it with: {command}")
        _environment(self.file, command, reopen=True)
        self._keys: list[bytes] = []
        value = self._get(HEADER_KEY)
        self.published = value is None
        if self.published:
            self._keys = self._published_keys()
            self.header = Header(dataset or "", len(self._keys), 255)
        else:
            self.header = self._read_header(value)
            if dataset is not None and self.header.dataset != dataset:
                raise DataError(f"{self.file} holds {self.header.dataset!r}, wanted is {dataset!r}; try: {command}")

    def __len__(self) -> int:
        return self.header.num_samples

    def key(self, index: int) -> str:
        """Return the key under which a sample is stored."""
        return (self._keys[index] if self.published else _sample_key(index)).decode()

    def read(self, index: int, keys: Collection[str] | None = None) -> dict[str, Any]:
        """Return a sample: encoded pictures as bytes, arrays as numpy.

        Args:
            index: 0 <= index < len.
            keys: the entries to decode, those a record lacks are left out; None means all.

        Raises:
            DataError: the record is missing or damaged, or its pickle names something that is not data.
            IndexError: no such index.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.file}: sample {index} of {len(self)}")
        key = self._keys[index] if self.published else _sample_key(index)
        where = f"{self.file}, sample {index}"
        value = self._get(key)
        if value is None:
            raise DataError(f"{where}: there is no record {key!r}; the file is damaged, make it again: {self.command}")
        if self.published:
            record = unpickle(value, where)
            if not isinstance(record, dict):
                raise DataError(f"{where}: a record must be a dict, this one is a {type(record).__name__}")
            return record if keys is None else {name: record[name] for name in keys if name in record}
        try:
            record = msgpack.unpackb(self._open_seal(value, where))
            wanted = record.keys() if keys is None else [name for name in keys if name in record]
            return {name: _unpack_array(record[name]) for name in wanted}
        except DataError:
            raise
        except Exception as error:  # whatever a decoder says about bytes that passed the checksum
            raise DataError(f"{where}: cannot be decoded ({error}); make the file again: {self.command}") from error

    def verify(self) -> None:
        """Read every record once and check it.

        Raises:
            DataError: at the first record that is missing or damaged.
        """
        for index in tqdm(range(len(self)), desc=f"verify {self.file.name}", unit="sample"):
            self.read(index)

    def _get(self, key: bytes) -> bytes | None:
        with _environment(self.file, self.command).begin() as transaction:
            return transaction.get(key)

    def _open_seal(self, value: bytes, where: str) -> memoryview:
        body = memoryview(value)[4:]
        if len(value) < 4 or zlib.crc32(body) != struct.unpack_from("<I", value)[0]:
            raise DataError(f"{where}: checksum does not match, the file is damaged; make it again: {self.command}")
        return body

    def _read_header(self, value: bytes) -> Header:
        fields = msgpack.unpackb(self._open_seal(value, f"{self.file}, header"))
        if not isinstance(fields, dict) or fields.get("magic") != MAGIC:
            raise DataError(f"{self.file} was not written by this framework; make one with: {self.command}")
        if fields.get("version") != VERSION:
            raise DataError(
                f"{self.file} has format version {fields.get('version')}, this program reads {VERSION}; "
                f"update the program or make the file again: {self.command}"
            )
        try:
            header = Header(**fields)
        except TypeError as error:
            raise DataError(f"{self.file}: unreadable header ({error}); make it again: {self.command}") from error
        entries = _environment(self.file, self.command).stat()["entries"] - 1
        if entries != header.num_samples:
            raise DataError(
                f"{self.file} announces {header.num_samples} samples and holds {entries}; make it again: {self.command}"
            )
        return header

    def _published_keys(self) -> list[bytes]:
        value = self._get(PUBLISHED_KEY)
        entries = _environment(self.file, self.command).stat()["entries"]
        if entries == 0 or (value is None and self._get(_sample_key(0)) is not None):
            raise DataError(f"{self.file} is unfinished: its conversion was interrupted; repeat: {self.command}")
        if value is None:
            raise DataError(
                f"{self.file} is an LMDB file, but neither ours nor a published dataset; make one with: {self.command}"
            )
        keys = unpickle(value, f"{self.file}, key list")
        if not isinstance(keys, list) or not all(isinstance(key, bytes) for key in keys):
            raise DataError(f"{self.file}: its {PUBLISHED_KEY.decode()} is no list of keys; make one: {self.command}")
        if len(keys) > entries - 1:
            raise DataError(
                f"{self.file} lists {len(keys)} samples and holds {entries - 1}; download it again or: {self.command}"
            )
        return keys


# ------------------------------------------------------------------------------------------------------ environments

_open: dict[str, tuple[tuple, lmdb.Environment]] = {}  # per process; LMDB refuses to open one file twice
_lock = threading.Lock()


def _close_all() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it
    for _, environment in _open.values():
        environment.close()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all)  # LMDB: "do not use an environment across fork"


def _environment(file: Path, command: str, reopen: bool = False) -> lmdb.Environment:
    """Return this process's handle of a file; with `reopen`, notice that the file was replaced since."""
    path = os.path.abspath(file)
    known = _open.get(path)
    if known is not None and not reopen:
        return known[1]
    with _lock:
        known = _open.get(path)
        try:
            status = os.stat(path)
        except OSError as error:
            raise DataError(f"{file}: {error.strerror}; make it with: {command}") from error
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if known is not None and known[0] == identity:
            return known[1]
        if known is not None:
            known[1].close()
            del _open[path]
        _check_size(file, status.st_size, command)
        try:
            environment = lmdb.open(path, subdir=False, readonly=True, lock=False, readahead=False, meminit=False)
        except lmdb.Error as error:
            raise DataError(f"{file} cannot be opened: {error}; make it again: {command}") from error
        _open[path] = (identity, environment)
        return environment


def _check_size(file: Path, size: int, command: str) -> None:
    """Compare the size with what LMDB's first pages say: reading beyond the end would kill the process (SIGBUS)."""
    if size == 0:
        raise DataError(f"{file} is empty; make it again: {command}")
    try:
        with file.open("rb") as stream:
            first = _meta(stream.read(4096))
            if first is None:
                raise DataError(f"{file} is not an LMDB file; make one with: {command}")
            stream.seek(first[0])
            second = _meta(stream.read(4096))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    page_size, last_page, _ = max((meta for meta in (first, second) if meta), key=lambda meta: meta[2])
    if size < 2 * page_size or size < (last_page + 1) * page_size:
        expected = max(2, last_page + 1) * page_size
        raise DataError(f"{file} is cut off: {size} bytes of {expected}; copy or download it again, or: {command}")


def _meta(page: bytes) -> tuple[int, int, int] | None:
    """Return page size, last page number and transaction number of an LMDB meta page (64 bit, little endian)."""
    if len(page) < 152 or struct.unpack_from("<II", page, 16) != (0xBEEFC0DE, 1):
        return None
    (page_size,) = struct.unpack_from("<I", page, 40)
    last_page, transaction = struct.unpack_from("<QQ", page, 136)
    return (page_size, last_page, transaction) if page_size >= 512 else None


# ----------------------------------------------------------------------------------------------------------- pickles


def unpickle(value: bytes, where: str) -> Any:
    """Decode a pickle of plain containers, bytes, numbers, numeric numpy arrays and BytesIO (delivered as bytes).

    Nothing that the pickle names is imported or called: each allowed global stands for a small class below that only
    collects its arguments, and every other name is refused.

    Args:
        value: the pickle, possibly compressed with zstd.
        where: file and sample, for messages.

    Raises:
        DataError: damaged, or it asks for anything else.
    """
    try:
        if value[:4] == ZSTD_MAGIC:
            value = _inflate(value)
        return _plain(_Unpickler(value, where).load())
    except DataError:
        raise
    except Exception as error:  # damaged pickles fail in any way: EOFError, TypeError, KeyError, struct.error...
        raise DataError(f"{where}: damaged pickle ({type(error).__name__}: {error})") from error


class _Buffer:
    """Stands for io.BytesIO."""

    def __init__(self, data: bytes = b""):
        self.data = data

    def __setstate__(self, state: tuple) -> None:
        self.data = state[0]

    def plain(self) -> bytes:
        return bytes(self.data)


class _DType:
    """Stands for numpy.dtype: a letter and a size, no fields, no objects."""

    def __init__(self, text: str, align: Any = False, copy: Any = True):
        self.dtype = _checked_dtype(text)

    def __setstate__(self, state: tuple) -> None:
        order, *rest = state[1:]
        if any(entry not in (None, -1, 0) for entry in rest):
            raise DataError("structured dtypes are refused")
        self.dtype = self.dtype.newbyteorder(order)


class _NdArray:
    """Stands for the class numpy.ndarray, which pickles hand to `_reconstruct`."""


class _Array:
    """Stands for `_reconstruct`: the content comes later, as state."""

    def __init__(self, cls: type, shape: tuple, letter: bytes):
        self.array = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        self.array = _array(data, dtype, shape, "F" if fortran else "C")

    def plain(self) -> np.ndarray:
        return self.array


class _Scalar:
    """Stands for `scalar`."""

    def __init__(self, dtype: _DType, data: bytes):
        self.array = _array(data, dtype, (1,), "C")

    def plain(self) -> Any:
        return self.array[0]


class _FromBuffer:
    """Stands for `_frombuffer` (pickle protocol 5)."""

    def __init__(self, data: Any, dtype: _DType, shape: tuple, order: str):
        self.array = _array(data, dtype, shape, order)

    def plain(self) -> np.ndarray:
        return self.array


def _array(data: Any, dtype: _DType, shape: tuple, order: str) -> np.ndarray:
    if not isinstance(data, (bytes, bytearray)) or not isinstance(dtype, _DType):
        raise DataError("arrays of objects are refused")
    return np.frombuffer(bytearray(data), dtype.dtype).reshape(shape, order=order)


_ALLOWED = {
    ("numpy", "ndarray"): _NdArray,
    ("numpy", "dtype"): _DType,
    ("_io", "BytesIO"): _Buffer,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, value: bytes, where: str):
        super().__init__(io.BytesIO(value))
        self.where = where

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _ALLOWED:
            raise DataError(f"{self.where}: the pickle asks for {module}.{name}, which is refused: it may run any code")
        return _ALLOWED[module, name]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(entry) for entry in value)
    return value.plain() if hasattr(value, "plain") else value
