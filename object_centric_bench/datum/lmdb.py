"""One store for all datasets: an LMDB file whose records need no pickle, and a reader that also takes published files.

Our format. The values of sample 12 (see `record`) lie under `00000012` and, for the elements of its lists,
`00000012.video.0000` and so on; `__header__` describes the file. The header is written last: a file without one is
known to be unfinished. The format has version 1, or 2 if pictures are stored decoded, under keys such as
`00000012.image`: so programs that know only the first say so.

Published files have a pickled list of keys under `__keys__` and a pickled dict per sample. They are decoded without
calling anything a pickle names, see `unpickle`.
"""

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np

from ..console import bar
from .environment import check_size, environment
from .pages import check_tree
from .record import Bands, DataError, Elements, Packed, seal, unpack, unpack_entry
from .unpickle import unpickle

MAGIC = "object_centric_bench"
VERSION, PIXELS_VERSION = 1, 2  # of files with encoded pictures, and with decoded ones
HEADER_KEY = b"__header__"
PUBLISHED_KEY = b"__keys__"
SMALLEST_MAP = 1 << 28  # bytes of address space; doubled as the file grows


@dataclass(frozen=True)
class Header:
    """What a file says about itself."""

    dataset: str
    num_samples: int
    max_segment: int  # largest segment id of any sample; label maps need more than uint8 above 255
    attributes: dict[str, Any] = field(default_factory=dict)
    num_values: int | None = None  # records but the header; None: one per sample
    magic: str = MAGIC
    version: int = VERSION


# ----------------------------------------------------------------------------------------------------------- writing


def write_values(file: Path, pairs: list[tuple[bytes, bytes]]) -> None:
    """Add records at the end of an unfinished file, all or none; they are on the disk when this returns.

    The file is opened and closed again, so that the pages it uses depend on nothing but what was written before: a
    writer that was killed and goes on later makes the same bytes as one that was not.

    Args:
        file: made if missing.
        pairs: key and value, keys rising and above all that are there.

    Raises:
        DataError: the disk is full, or anything else that LMDB says.
    """
    try:
        more = sum(len(value) + 4096 for _, value in pairs)
        with _writable(file, more) as opened, opened.begin(write=True) as transaction:
            for key, value in pairs:
                if not transaction.put(key, value, append=True):
                    raise DataError(f"cannot write {file}: key {key!r} is there already")
    except (OSError, lmdb.Error) as error:
        free = shutil.disk_usage(file.parent).free / 1e6
        why = f"{error}; {free:.0f} MB are free there: is the disk full, or may files not grow so large?"
        raise DataError(f"cannot write {file}: {why}") from error


def count_values(file: Path) -> tuple[int, bool]:
    """Return how many records an unfinished file holds, and whether one is its header.

    Raises:
        DataError: it is no such file.
    """
    try:
        check_size(file, file.stat().st_size, "")
        check_tree(file, "convert again")
        with _writable(file, 0) as opened, opened.begin() as transaction:
            return opened.stat()["entries"], transaction.get(HEADER_KEY) is not None
    except (OSError, lmdb.Error) as error:
        raise DataError(f"cannot read {file}: {error}") from error


def sample_values(index: int, sample: Packed) -> list[tuple[bytes, bytes]]:
    """Return the records of a sample, keys rising."""
    key = sample_key(index)
    return [(key + suffix.encode(), value) for suffix, value in sample.values]


def header_value(header: Header) -> tuple[bytes, bytes]:
    """Return the record that declares a file whole."""
    return HEADER_KEY, seal(msgpack.packb(asdict(header)))


def sample_key(index: int) -> bytes:
    """Return the key of a sample's main value."""
    return b"%08d" % index


@contextlib.contextmanager
def _writable(file: Path, more: int) -> Iterator[lmdb.Environment]:
    opened = lmdb.open(str(file), subdir=False, lock=False, map_size=SMALLEST_MAP)
    try:
        information = opened.info()
        used = (information["last_pgno"] + 1) * opened.stat()["psize"]
        size = max(SMALLEST_MAP, 1 << (2 * (used + more)).bit_length())
        if size > information["map_size"]:
            opened.set_mapsize(size)
        yield opened
    finally:
        opened.close()


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
            what = "is a folder, an LMDB file is wanted" if self.file.is_dir() else "no such file"
            raise DataError(f"{self.file}: {what}; make it with: {command}")
        environment(self.file, command, reopen=True)
        self._keys: list[bytes] = []
        value = self._get(HEADER_KEY)
        self.published = value is None
        if value is None:
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
        return (self._keys[index] if self.published else sample_key(index)).decode(errors="replace")

    def read(
        self, index: int, keys: Collection[str] | None = None, choose: Callable[[int], Sequence[int]] | None = None
    ) -> dict[str, Any]:
        """Return a sample: encoded pictures as bytes, arrays and decoded pictures as numpy, lists as lists of either.

        Args:
            index: 0 <= index < len.
            keys: the entries to decode, those a record lacks are left out; None means all.
            choose: from the length of the sample's lists to the elements to read; called once; None reads all. Not for
                published files, whose records are read whole.

        Raises:
            DataError: the record is missing or damaged, or its pickle names something that is not data.
            IndexError: no such index.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.file}: sample {index} of {len(self)}")
        where = f"{self.file}, sample {index}"
        with environment(self.file, self.command).begin(  # type: ignore[call-overload]
            buffers=not self.published  # its hints want True or False written out
        ) as transaction:
            if self.published:
                record = unpickle(bytes(self._value(transaction, self._keys[index], where)), where)
                if not isinstance(record, dict):
                    raise DataError(f"{where}: a record must be a dict, this one is a {type(record).__name__}")
                return record if keys is None else {name: record[name] for name in keys if name in record}
            try:
                return self._decode(transaction, index, keys, choose, where)
            except DataError:
                raise
            except Exception as error:  # whatever a decoder says about bytes that passed the checksum
                raise DataError(f"{where}: cannot be decoded ({error}); make the file again: {self.command}") from error

    def _decode(
        self,
        transaction: lmdb.Transaction,
        index: int,
        keys: Collection[str] | None,
        choose: Callable[[int], Sequence[int]] | None,
        where: str,
    ) -> dict[str, Any]:
        key = sample_key(index)
        main = self._unpack(self._value(transaction, key, where), where)
        wanted = main.keys() if keys is None else [name for name in keys if name in main]
        record = {name: unpack_entry(main[name]) for name in wanted}
        for name, entry in record.items():
            if isinstance(entry, Bands):
                record[name] = self._picture(transaction, key + b"." + name.encode(), entry, where)
        lists = {name: entry.count for name, entry in record.items() if isinstance(entry, Elements)}
        if not lists:
            return record
        if choose is not None and len(set(lists.values())) != 1:
            raise DataError(f"{where}: its lists differ in length: {lists}")
        numbers = None if choose is None else list(choose(next(iter(lists.values()))))
        for name, count in lists.items():
            if type(count) is not int or not 0 <= count < (self.header.num_values or 0):
                raise DataError(f"{where}: {name!r} is a list of {count} elements; make it again: {self.command}")
            stored = [b"%b.%b.%04d" % (key, name.encode(), n) for n in (range(count) if numbers is None else numbers)]
            values = [self._value(transaction, each, where) for each in stored]
            record[name] = [unpack_entry(self._unpack(value, where)) for value in values]
        return record

    def _picture(self, transaction: lmdb.Transaction, key: bytes, bands: Bands, where: str) -> np.ndarray:
        value = self._value(transaction, key, where)
        try:
            return bands.read(memoryview(value))
        except DataError as error:
            raise DataError(f"{where}: {error}; make it again: {self.command}") from error

    def verify(self) -> None:
        """Read every record once and check it.

        Raises:
            DataError: at the first record that is missing or damaged.
        """
        for index in bar(range(len(self)), f"verify {self.file.name}", unit="sample"):
            self.read(index)

    def _get(self, key: bytes) -> bytes | None:
        with environment(self.file, self.command).begin() as transaction:
            found = self._found(transaction, key, str(self.file))
            return None if found is None else bytes(found)

    def _found(self, transaction: lmdb.Transaction, key: bytes, where: str) -> bytes | memoryview | None:
        try:
            return transaction.get(key)
        except lmdb.Error as error:
            raise DataError(f"{where}: the file is damaged ({error}); make it again: {self.command}") from error

    def _value(self, transaction: lmdb.Transaction, key: bytes, where: str) -> bytes | memoryview:
        value = self._found(transaction, key, where)
        if value is None:
            raise DataError(f"{where}: there is no record {key!r}; the file is damaged, make it again: {self.command}")
        return value

    def _unpack(self, value: bytes | memoryview, where: str) -> Any:
        try:
            return unpack(value)
        except Exception as error:  # whatever MessagePack says about bytes that passed the checksum
            raise DataError(f"{where}: {error}; make it again: {self.command}") from error

    def _read_header(self, value: bytes) -> Header:
        fields = self._unpack(value, f"{self.file}, header")
        if not isinstance(fields, dict) or fields.get("magic") != MAGIC:
            raise DataError(f"{self.file} was not written by this framework; make one with: {self.command}")
        if fields.get("version") not in (VERSION, PIXELS_VERSION):
            raise DataError(
                f"{self.file} has format version {fields.get('version')}, this program reads up to {PIXELS_VERSION}; "
                f"update the program or make the file again: {self.command}"
            )
        try:
            header = Header(**fields)
        except TypeError as error:
            raise DataError(f"{self.file}: unreadable header ({error}); make it again: {self.command}") from error
        numbers = [header.num_samples, header.max_segment, *([] if header.num_values is None else [header.num_values])]
        if not all(type(number) is int and 0 <= number < 1 << 32 for number in numbers):
            raise DataError(f"{self.file}: unreadable header ({fields}); make it again: {self.command}")
        entries = environment(self.file, self.command).stat()["entries"] - 1
        announced = header.num_samples if header.num_values is None else header.num_values
        if entries != announced:
            raise DataError(
                f"{self.file} announces {announced} records and holds {entries}; make it again: {self.command}"
            )
        return header

    def _published_keys(self) -> list[bytes]:
        value = self._get(PUBLISHED_KEY)
        entries = environment(self.file, self.command).stat()["entries"]
        if entries == 0 or (value is None and self._get(sample_key(0)) is not None):
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
