"""Decode the pickles of published files without running anything they name."""

import io
import pickle
import pickletools
from typing import Any

import numpy as np

from .record import ZSTD_MAGIC, DataError, checked_dtype, inflate

PUTS, GETS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), ("GET", "BINGET", "LONG_BINGET")  # operations of pickles
TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
REFUSED = ("DUP", "EMPTY_SET", "FROZENSET", "ADDITEMS")


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
            value = inflate(value)
        _require_modest(value, where)
        return _plain(_Unpickler(value, where).load(), {})
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
        self.dtype = checked_dtype(text)

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
    return np.frombuffer(bytearray(data), dtype.dtype).reshape(shape, order=order)  # type: ignore[call-overload]  # any text may stand there


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


def _require_modest(value: bytes, where: str) -> None:
    """Walk through a pickle's operations without doing them, and refuse those whose cost is out of all proportion.

    Python's unpickler makes room for as many remembered objects as the highest number among them says, gigabytes. And
    tuples of tuples, each twice the same, take longer than a life to hash: no writer of datasets shares tuples.

    Raises:
        DataError: such an operation, or one that builds a set.
    """
    remembered, tuples, before = 0, set(), ""
    for operation, argument, _ in pickletools.genops(value):
        name = operation.name
        if name in PUTS:
            number = remembered if name == "MEMOIZE" else argument or 0
            if number > len(value):
                raise DataError(f"{where}: damaged pickle (object number {number} of {len(value)} bytes)")
            remembered += 1
            if before in TUPLES:
                tuples.add(number)
            else:
                tuples.discard(number)
            continue  # the object stays on top
        if name in REFUSED or (name in GETS and argument in tuples):
            raise DataError(f"{where}: the pickle has sets, or tuples that stand in several places, which is refused")
        before = name


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """Return a value with the stand-ins replaced; what stands in several places is made once."""
    if not isinstance(value, (dict, list, tuple)):
        return value.plain() if hasattr(value, "plain") else value
    if id(value) not in done:
        if isinstance(value, dict):
            done[id(value)] = {_plain(key, done): _plain(entry, done) for key, entry in value.items()}
        else:
            done[id(value)] = type(value)(_plain(entry, done) for entry in value)
    return done[id(value)]
