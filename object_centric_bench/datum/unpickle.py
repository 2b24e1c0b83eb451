"""Decode the pickles of published files without running anything they name."""

import io
import pickle
from typing import Any

import numpy as np

from .record import ZSTD_MAGIC, DataError, checked_dtype, inflate


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
