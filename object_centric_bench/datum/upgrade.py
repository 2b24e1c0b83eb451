"""Rewrite a published file in our format, and prove that nothing was lost."""

import functools
import logging
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..console import bar
from . import conversion
from .clevrtex import ClevrTex
from .coco import COCO
from .dataset import Dataset
from .lmdb import Reader
from .movi import MOVi
from .parallel import ordered_map
from .record import DataError, Packed, pack
from .source import stored_picture
from .voc import VOC

log = logging.getLogger(__name__)

DATASETS = (ClevrTex, COCO, MOVi, VOC)


def upgrade(
    source: str | Path,
    target: str | Path,
    /,
    labels: Literal["merged", "border0"] | None = None,
    workers: int = 0,
    force: bool = False,
    pixels: bool = False,
) -> None:
    """Rewrite a published LMDB file in our format and compare every decoded sample of the two.

    The target gets its name after the comparison.

    Args:
        source: the published file.
        target: the file to write.
        labels: what the label maps of a published VOC file hold: merged (files of 2025), 0 = background and border; or
            border0 (files of 2026), 0 = border, 1 = background.
        workers: processes; 0 works here. The file is the same.
        force: start from nothing and replace an existing target.
        pixels: store pictures decoded, not for videos.

    Raises:
        DataError: the source is no published file, or of no known dataset; the target exists, or is the source; a
            sample differs; `pixels` for videos.
    """
    source, target = Path(source), Path(target)
    if source.exists() and target.exists() and source.samefile(target):
        raise DataError(f"{target} is the source itself, which is never overwritten; give another file to write")
    conversion.refuse_existing(target, force)
    reader = Reader(source)
    if not reader.published:
        raise DataError(f"{source} is in our format already, nothing is to be done")
    if not len(reader):
        raise DataError(f"{source} holds no samples; download it again")
    name = recognise(reader)
    if labels is not None and name != VOC.__name__:
        raise DataError(f"{source} holds {name}; --labels says what the label maps of published VOC files hold")
    options = (("labels", labels),) if labels else ()
    keys = tuple(key for key in _class(name).offered if key in _record(str(source), name, options, 0))
    if pixels and "image" not in keys:
        raise DataError(f"{source} holds {name}, which has no pictures to be stored decoded; leave out --pixels")
    attributes: dict[str, Any] = {"source": f"published file {source.name}", **dict(options)}
    if name == COCO.__name__ and "isthing" not in reader.read(0):
        attributes["things_only"] = True
    unproven = target.with_name(f".{target.name}.unproven")
    job = conversion.Job(
        items=range(len(reader)),
        sample=functools.partial(_sample, str(source), name, options),
        files=functools.partial(_files, source),
        attributes=attributes,
        chunk=1,
    )
    job = job.decoded() if pixels else job
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with conversion.alone(target):
            unproven.unlink(missing_ok=True)  # an earlier run was interrupted while comparing
            conversion.write(unproven, _class(name).store, job, workers=workers, force=force)
            try:
                _prove(reader, unproven, name, options, keys, workers)
            except DataError:
                unproven.unlink()
                raise
            conversion.refuse_existing(target, force)
            os.replace(unproven, target)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error}") from error
    log.warning("%s: %d samples, each decodes to the same %s as in %s", target, len(reader), ", ".join(keys), source)


def _prove(reader: Reader, unproven: Path, name: str, options: tuple, keys: tuple[str, ...], workers: int) -> None:
    """Raise `DataError` unless both files decode to the same samples, read as training reads them."""
    if len(Reader(unproven, _class(name).store)) != len(reader):
        raise DataError(f"{unproven} has not as many samples as {reader.file}")
    compare = functools.partial(_compare, str(reader.file), str(unproven), name, options, keys)
    done = ordered_map(compare, range(len(reader)), workers)
    for _ in bar(done, f"compare {unproven.name}", total=len(reader), unit="sample"):
        pass


def recognise(reader: Reader) -> str:
    """Return the name of the dataset class that knows a published file's records.

    Raises:
        DataError: none does.
    """
    stored = reader.read(0)
    for cls in DATASETS:
        if cls.recognises(stored):
            return cls.__name__
    raise DataError(f"{reader.file}: records with {', '.join(sorted(stored))} are of no known dataset")


def _class(name: str) -> type[Dataset]:
    return next(cls for cls in DATASETS if cls.__name__ == name)


@functools.lru_cache(maxsize=4)  # per process: the source and the target
def _dataset(file: str, name: str, options: tuple, keys: tuple[str, ...] = ()) -> Dataset:
    cls = _class(name)
    keys = keys or cls.offered[:1]
    return cls(os.path.basename(file), list(keys), data_dir=os.path.dirname(file), **dict(options))


def _record(source: str, name: str, options: tuple, index: int) -> dict[str, Any]:
    dataset = _dataset(source, name, options)
    return dataset.translated(dataset.reader.read(index), dataset.offered, index)


def _sample(source: str, name: str, options: tuple, index: int, pixels: bool = False) -> Packed:
    record = _record(source, name, options, index)
    if pixels:
        record["image"] = stored_picture(record["image"], f"{source}, sample {index}: the picture", pixels)
    return pack({**record, "source_id": _dataset(source, name, options).source_id(index)})


def _files(source: Path, index: int) -> list[Path]:
    return [source]


def _compare(source: str, target: str, name: str, options: tuple, keys: tuple[str, ...], index: int) -> None:
    """Raise `DataError` unless a sample decodes to the same entries from both files."""
    rng = np.random.default_rng(0)  # nothing is drawn
    old = _dataset(source, name, options, keys).decode(index, rng)
    new = _dataset(target, name, (), keys).decode(index, rng)
    for key in keys:
        if not torch.equal(old[key], new[key]) or old[key].dtype != new[key].dtype:
            raise DataError(f"{target}: {key} of sample {index} differs from that in {source}")
