"""What a file holds: its header, its entries, how many objects there are, whether all of it can be read."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..console import bar
from ..picture import draw_segments, save_grid
from .lmdb import Reader
from .record import DataError
from .stored_picture import centre, decode, decode_avi, encoding, shrink, to_rgb, unstack

LABEL = 15  # characters before the text of a line
BARS, BINS = 40, 16  # characters of the longest bar and most lines of a histogram
NUMBERS = (bool, int, float, np.generic)
SHOWN = 5  # samples or messages named before "and more"
PER_ROW = 2  # images in a row of it, each plain and with its segments
KNOWN = {  # published datasets by keys that only they have
    "movi": {"video", "bbox"},
    "coco": {"image", "clazz"},
    "clevrtex": {"image", "depth"},
    "voc": {"image", "segment"},
}


def inspect(file: str | Path, /, pictures: str | None = None, count: int = 16) -> None:
    """Tell what a file holds and whether all of it can be read.

    Args:
        file: an LMDB file, ours or published.
        pictures: folder for a contact sheet of the first samples, segments drawn in; made if missing.
        count: how many samples have their pictures and videos decoded, and drawn.

    Raises:
        DataError: the file cannot be used, samples are damaged, a picture cannot be written, or `count` is below 1.
    """
    if count < 1:
        raise DataError(f"count is at least 1, got {count}")
    reader = Reader(file)
    for label, text in describe(reader):
        print(f"{label:<{LABEL}}{text}")
    survey = Survey(reader, count)
    survey.scan()
    print(survey)
    if pictures is not None:
        print(f"{'pictures':<{LABEL}}{survey.draw(Path(pictures))}")
    if survey.damaged:
        more = f"; {len(survey.damaged)} samples are damaged in all" if len(survey.damaged) > 1 else ""
        raise DataError(f"{next(iter(survey.damaged.values()))}{more}")


def describe(reader: Reader) -> Iterator[tuple[str, str]]:
    """Yield label and text of the lines about the file as a whole."""
    header = reader.header
    yield "file", f"{reader.file}, {size_text(reader.file.stat().st_size)}"
    if reader.published:
        yield "format", "published, a pickled dict per sample"
    else:
        yield "format", f"{header.magic}, version {header.version}"
        yield "dataset", header.dataset
    yield "samples", str(len(reader))
    for key, value in header.attributes.items():
        if key != "left_out":
            yield key, str(value)
    messages = header.attributes.get("left_out", [])
    yield from (("left out", message) for message in messages[:SHOWN])
    if len(messages) > SHOWN:
        yield "left out", f"and {len(messages) - SHOWN} more"
    if not reader.published:
        yield "largest id", f"{header.max_segment}, of all label maps"


def size_text(size: int) -> str:
    """Return a number of bytes for people."""
    left = float(size)
    for unit in ("bytes", "kB", "MB"):
        if left < 1000:
            return f"{left:.3g} {unit}"
        left /= 1000
    return f"{left:.1f} GB"


class Entry:
    """What the samples have under one key: an array, text or number, encoded pictures, or a list of such."""

    def __init__(self) -> None:
        self.samples = 0
        self.lengths: set[int] = set()  # of lists
        self.kinds: dict[str, None] = {}  # in the order they were seen
        self.dtypes: dict[str, None] = {}
        self.shapes: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # number of axes -> smallest, largest
        self.low: Any = None
        self.high: Any = None
        self.has_nan = False

    def take(self, array: np.ndarray) -> None:
        """Widen shapes and range by an array."""
        shape = np.array(array.shape, int)
        low, high = self.shapes.get(array.ndim, (shape, shape))
        self.shapes[array.ndim] = np.minimum(low, shape), np.maximum(high, shape)
        self.dtypes[str(array.dtype)] = None
        if array.dtype.kind == "f":
            finite = ~np.isnan(array)
            if not finite.all():
                self.has_nan, array = True, array[finite]
        if array.size:
            least, most = array.min().item(), array.max().item()
            self.low = least if self.low is None else min(self.low, least)
            self.high = most if self.high is None else max(self.high, most)

    def row(self) -> list[str]:
        """Return the cells of the table: stored as, shape, type, range."""
        kinds = " or ".join(self.kinds)
        if self.lengths:
            kinds = f"{span(min(self.lengths), max(self.lengths))} x {kinds}"
        shapes = [" x ".join(map(span, low, high)) or "-" for _, (low, high) in sorted(self.shapes.items())]
        values = "" if self.low is None else span(self.low, self.high)
        return [kinds, " or ".join(shapes), " or ".join(self.dtypes), f"{values} and NaN" if self.has_nan else values]


def span(low: Any, high: Any) -> str:
    """Return "low..high", or one number if they are the same."""
    texts = [f"{value:.4g}" if isinstance(value, float) else str(int(value)) for value in (low, high)]
    return texts[0] if texts[0] == texts[1] else "..".join(texts)


class Survey:
    """Reads all of a file, once.

    Args:
        reader: of the file.
        count: how many samples have their pictures decoded.

    Attributes:
        damaged: message per damaged sample.
    """

    def __init__(self, reader: Reader, count: int):
        self.reader, self.count = reader, min(count, len(reader))
        self.entries: dict[str, Entry] = {}
        self.objects: Counter[int] = Counter()
        self.unit = "objects"
        self.is_video = False
        self.background: list[float] = []  # share of id 0 in each label map
        self.damaged: dict[int, str] = {}
        self.rows: list[list[np.ndarray]] = []  # of the contact sheet
        self.undecoded = False  # whether PyAV is missing
        self.decoded = 0  # samples whose pictures were decoded

    def scan(self) -> None:
        """Read every sample; go on after a damaged one."""
        for index in bar(range(len(self.reader)), f"inspect {self.reader.file.name}", unit="sample"):
            try:
                self.take(self.reader.read(index), index)
            except DataError as error:
                self.damaged[index] = str(error)

    def take(self, record: dict[str, Any], index: int) -> None:
        """Note what a sample holds.

        Raises:
            DataError: a picture cannot be decoded.
        """
        arrays: dict[str, list[np.ndarray]] = {}
        for key, value in leaves(record):
            where = f"{self.reader.file}, sample {index}: {key!r}"
            entry = self.entries.setdefault(key, Entry())
            entry.samples += 1
            if isinstance(value, list):
                entry.lengths.add(len(value))
            elements = value if isinstance(value, list) else [value]
            arrays[key] = [a for a in (self.element(entry, key, e, index, where) for e in elements) if a is not None]
        self.is_video |= "video" in record
        self.count_objects(record, arrays.get("segment", []))
        if index < self.count:
            self.decoded += 1
            self.add_pictures(record, arrays)

    def element(self, entry: Entry, key: str, value: Any, index: int, where: str) -> np.ndarray | None:
        """Note one value and return it as an array, pictures decoded; None if it is none or was not decoded."""
        kind = encoding(value, self.reader.published)
        name = "array" if isinstance(value, np.ndarray) else "number" if isinstance(value, NUMBERS) else None
        entry.kinds[kind or name or type(value).__name__] = None
        if kind is None:
            array = np.asarray(value) if name else None
        elif kind == "AVI":
            array = decode_avi(key, value, where) if index < self.count else None
            self.undecoded |= index < self.count and array is None
        else:
            # counting what a published file has no rows for wants all its label maps
            array = decode(key, value, where) if index < self.count or self.wants(key) else None
        if array is not None:
            entry.take(array)
        return array

    def wants(self, key: str) -> bool:
        """Tell whether the pictures of an entry are decoded for all samples."""
        return key == "segment" and not {"isthing", "clazz", "bbox"} & self.entries.keys()

    def count_objects(self, record: dict[str, Any], segments: list[np.ndarray]) -> None:
        """Count the things of a sample, else its rows, else the ids of its label maps; note the share of id 0."""
        ids = [np.bincount(segment.ravel(), minlength=1) for segment in segments if segment.dtype.kind == "u"]
        self.background += [float(counts[0] / max(counts.sum(), 1)) for counts in ids]
        things = record.get("is_thing", record.get("isthing"))
        rows = record.get("category", record.get("clazz"))
        boxes = record.get("box", record.get("bbox"))
        if things is not None:
            self.unit = "things"
            self.objects[int(np.sum(things))] += 1
        elif rows is not None:
            self.objects[np.shape(rows)[-1]] += 1
        elif boxes is not None:
            seen = np.moveaxis(np.asarray(boxes) != 0, -2, 0)  # n first
            self.objects[int(seen.any(axis=tuple(range(1, seen.ndim))).sum())] += 1
        elif ids:
            found = np.unique(np.concatenate([np.flatnonzero(counts[1:]) for counts in ids]))
            self.objects[len(found)] += 1

    # ------------------------------------------------------------------------------------------------------ the report

    def __str__(self) -> str:
        lines = [*self.guess(), *self.table(), *self.histogram()]
        if self.background:
            text = f"{100 * np.mean(self.background):.1f} % of the pixels of {len(self.background)} label maps"
            lines.append(f"{'id 0':<{LABEL}}{text}")
            if self.reader.published and self.dataset() == "voc":
                lines.append(f"{'':<{LABEL}}published VOC files of 2026 number the border 0 and the background 1: then")
                lines.append(f"{'':<{LABEL}}0 covers a few per cent only, and the background counts as an object above")
        if self.undecoded:
            lines.append(f"{'videos':<{LABEL}}not decoded, PyAV is missing: pip install av")
        return "\n".join([*lines, f"{'checksums':<{LABEL}}{self.verdict()}"])

    def dataset(self) -> str:
        """Return the name of the dataset; of a published file by its keys, "unknown" if they are of none."""
        if not self.reader.published:
            return self.reader.header.dataset
        keys = {key.split(".")[0] for key in self.entries}
        return next((name for name, known in KNOWN.items() if known <= keys), "unknown")

    def guess(self) -> list[str]:
        """Return a line about the dataset of a published file."""
        return [f"{'dataset':<{LABEL}}not named, by its keys: {self.dataset()}"] if self.reader.published else []

    def table(self) -> list[str]:
        """Return a line per entry."""
        rows = [["entry", "stored as", "shape", "type", "range"]]
        rows += [[key, *entry.row()] for key, entry in self.entries.items()]
        for row, entry in zip(rows[1:], self.entries.values(), strict=True):
            if entry.samples < len(self.reader) - len(self.damaged):
                row[1] += f" (in {entry.samples} samples)"
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        notes = [f"(shapes and ranges of encoded pictures: of the first {self.count} samples)"]
        return ["", *(line.rstrip() for line in lines), *(notes if self.decoded else []), ""]

    def histogram(self) -> list[str]:
        """Return a line per number of objects, or per some numbers."""
        if not self.objects:
            return []
        total, low, high = self.objects.total(), min(self.objects), max(self.objects)
        mean = sum(number * times for number, times in self.objects.items()) / total
        step = -(-(high - low + 1) // BINS)
        bins = [(start, min(start + step - 1, high)) for start in range(low, high + 1, step)]
        heights = [sum(self.objects[number] for number in range(first, last + 1)) for first, last in bins]
        width = max(len(span(*each)) for each in bins)
        lines = [f"{self.unit} per {'video' if self.is_video else 'image'}, {mean:.2f} on average"]
        for each, times in zip(bins, heights, strict=True):
            bar = "#" * -(-BARS * times // max(heights))
            lines.append(f"  {span(*each):>{width}} {times:>{len(str(max(heights)))}} {bar}".rstrip())
        return [*lines, ""]

    def verdict(self) -> str:
        """Return whether all could be read."""
        if self.damaged:
            named = ", ".join(map(str, [*self.damaged][:SHOWN])) + (", ..." if len(self.damaged) > SHOWN else "")
            return f"DAMAGED: {len(self.damaged)} of {len(self.reader)} samples cannot be read: {named}"
        if self.reader.published:
            done = f"all {len(self.reader)} records could be decoded, pictures of {self.decoded}"
            return f"none in published files; {done}"
        return f"all records of all {len(self.reader)} samples match"

    # ----------------------------------------------------------------------------------------------- the contact sheet

    def add_pictures(self, record: dict[str, Any], arrays: dict[str, list[np.ndarray]]) -> None:
        """Add an image, or the first, middle and last frame of a video, to the contact sheet."""
        name = "video" if "video" in arrays else "image"
        frames, segments = ([f for a in arrays.get(key, []) for f in unstack(key, a)] for key in (name, "segment"))
        if not frames:
            return
        encoded = record[name][0] if isinstance(record[name], list) else record[name]
        kind = encoding(encoded, self.reader.published)
        # OpenCV decodes to BGR; published lists of PNG files were written with red and blue exchanged
        is_rgb = kind in (None, "AVI") or (kind == "PNG" and name == "video" and self.reader.published)
        cells = []
        for number in dict.fromkeys([0, len(frames) // 2, len(frames) - 1]):
            plain = shrink(to_rgb(frames[number], is_rgb), cv2.INTER_AREA)
            cells += [plain] if name == "image" or number >= len(segments) else []
            if number < len(segments):
                cells.append(draw_segments(plain, shrink(segments[number], cv2.INTER_NEAREST_EXACT), 0.5))
        self.rows.append([centre(cell) for cell in cells])

    def draw(self, folder: Path) -> str:
        """Write the contact sheet; return its path, or why there is none.

        Raises:
            DataError: it cannot be written.
        """
        if not self.rows:
            return "none: nothing could be decoded"
        file = folder / f"{self.dataset()}-{self.reader.file.stem}.png"
        join = 1 if self.is_video else PER_ROW
        try:
            folder.mkdir(parents=True, exist_ok=True)
            starts = range(0, len(self.rows), join)
            save_grid(file, [list(itertools.chain(*self.rows[start : start + join])) for start in starts])
        except OSError as error:
            raise DataError(f"cannot write {file}: {error}") from error
        return str(file)


def leaves(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield path and value of everything that is no dict and no list of lists."""
    for key, value in record.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(element, (list, dict)) for element in value):
            yield from leaves({str(number): element for number, element in enumerate(value)}, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
