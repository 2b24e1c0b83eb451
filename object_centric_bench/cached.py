"""What frozen parts give for pictures that are not augmented, computed once: found on disk, or computed and kept.

Batches are read without pictures then, where nothing else needs them, and the kept rows are put in by `index`.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import config as configs
from .console import bar
from .datum.cache import Cache, CacheFull, Entry
from .datum.identity import identity
from .datum.labels import Split
from .datum.loader import eval_batches
from .learn.run import Run
from .model.frozen import compute, needs_pictures, reusable
from .registry import ConfigError, build

PICTURES = ("image", "video")
CACHE_DTYPES = ("float16", "float32")
LIBRARIES = ("torch", "timm", "transformers")  # another version may compute otherwise
DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64)}

log = logging.getLogger(__name__)


class Present:
    """A batch transform that leaves batches alone which lack its pictures."""

    def __init__(self, transform: Any):
        self.transform, self.keys = transform, set(getattr(transform, "keys", ()))

    def __call__(self, batch: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Return the batch, transformed if all is there."""
        return self.transform(batch, rng) if self.keys <= batch.keys() else batch

    def invert(self, picture: Tensor) -> Tensor:
        """Return a picture (b c h w) as it was before."""
        return self.transform.invert(picture)


class Restore:
    """The batch transform that gives kept entries, on the device, the dtype in which they were computed."""

    def __init__(self, splits: "list[Kept]"):
        self.splits = splits

    def __call__(self, batch: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Return the batch with kept entries as the model would compute them."""
        about = {name: entry.about for split in self.splits for name, entry in split.entries.items() if name in batch}
        return batch | {name: batch[name].to(DTYPES[each["computed"]]) for name, each in about.items()}

    def invert(self, picture: Tensor) -> Tensor:
        """Return the picture: this transform changes none."""
        return picture


class Kept:
    """The kept entries of one split, found or made when its first batch is wanted: then all weights are loaded.

    Args:
        run: computes the entries that are missing, by the frozen parts of its model.
        split: train or eval.
        dataset: the split, with pictures.
        make: a dataset's config -> the split under it.
        settings: of the command line: where data and cache lie.

    Raises:
        ConfigError: the split draws at random, or the model takes nothing that a frozen part computes.
    """

    def __init__(self, run: Run, split: str, dataset: Split, make: Callable[[dict], Split], settings: Any):
        self.run, self.split, self.dataset = run, split, dataset
        self.network = run.accelerator.unwrap_model(run.model)
        self.cache = Cache(settings.cache_folder, int(run.cfg["cache_gigabytes"] * 1e9))
        self.option = "cache_eval" if run.cfg["cache_eval"] and split == "eval" else "cache_feature"
        self.parts = reusable(self.network)
        if split == "train":  # a model in training may draw other codes
            self.parts.pop("code", None)
        self.require_fixed()
        self.section = run.cfg["dataset"][split]
        self.pictures = build(picture_only(self.section), f"dataset.{split}", data_dir=settings.data_dir)
        self.without: Split | None = None
        reduced = without_pictures(self.section)
        if reduced is not None and not needs_pictures(self.network, set(self.parts)) and not uses_pictures(run):
            self.without = make(reduced)
        self.transforms = list(run.batch_transforms)
        self.entries: dict[str, Entry] = {}
        self.made_from: tuple | None = None
        self.full = False

    def require_fixed(self) -> None:
        """Raise `ConfigError` if the split draws at random, or the model takes nothing that a frozen part computes."""
        choices = [*self.dataset.transforms, getattr(self.dataset, "clip", None)]
        drawn = [type(choice).__name__ for choice in choices if choice is not None and choice.is_random]
        found = [f"dataset.{self.split} augments at random ({', '.join(drawn)})"] if drawn else []
        if not self.parts:
            name = type(self.network).__name__
            found.append(f"{name} takes nothing that a frozen part computes (does freeze name 'backbone\\..*'?)")
        if found:
            raise ConfigError(f"{self.option}: {' and '.join(found)}; set it to False")

    def batches(self, make: Callable[[Split], Iterable[dict]]) -> Iterator[dict]:
        """Yield the batches that `make` gives of the split, or of the split without its pictures, and kept entries."""
        entries = self.load()
        dataset = self.without if entries and self.without is not None else self.dataset
        for batch in make(dataset):
            yield batch | {name: entry.take(batch["index"]) for name, entry in entries.items()}

    def load(self) -> dict[str, Entry]:
        """Return the kept entries, none if there is no room for them; looks for them again if weights have changed."""
        parts = sorted({part for each in self.parts.values() for part in each})
        modules = [self.network.get_submodule(part) for part in parts]
        made_from = tuple((id(each), each._version) for module in modules for each in module.state_dict().values())
        if not self.full and made_from != self.made_from:
            try:
                self.entries = self.find_or_make()
            except CacheFull as error:
                self.entries, self.full = {}, True
                log.warning(
                    "%s: %s. The run goes on without the cache; frozen parts are computed anew in every pass over "
                    "dataset.%s", self.option, error, self.split
                )  # fmt: skip
            self.made_from = made_from
        return self.entries

    def find_or_make(self) -> dict[str, Entry]:
        """Return all entries, computing those that are missing in one pass over the pictures.

        Raises:
            CacheFull: they cannot be kept.
        """
        facts = {name: self.facts(parts) for name, parts in self.parts.items()}
        keys = {name: f"{name}-{configs.fingerprint(facts[name])}" for name in facts}
        with ExitStack() as locks:
            for name in sorted(keys):  # the same order in every process, so that no two wait for each other
                locks.enter_context(self.cache.lock(keys[name]))
            entries = {name: self.cache.open(key) for name, key in keys.items()}
            missing = {name: keys[name] for name, entry in entries.items() if entry is None}
            if missing:
                self.make(missing, facts)
                entries |= {name: self.cache.open(key) for name, key in missing.items()}
        found = {name: entry for name, entry in entries.items() if entry is not None}
        if len(found) != len(entries):
            raise CacheFull(f"what was written to {self.cache.folder} cannot be read back")
        return found

    @torch.no_grad()
    def make(self, keys: dict[str, str], facts: dict[str, dict]) -> None:
        """Compute entries and write them.

        Args:
            keys: name of an entry -> its key.
            facts: name of an entry -> what it is made of.

        Raises:
            CacheFull: they cannot be kept.
        """
        size, workers = self.run.cfg["dataset"]["eval_batch_size"], self.run.cfg["dataset"]["num_workers"]
        total = len(self.pictures)
        with ExitStack() as stack:
            writers = {
                name: stack.enter_context(self.cache.writer(key, total, facts[name])) for name, key in keys.items()
            }
            loader = eval_batches(self.pictures, size, num_workers=workers)
            for batch in bar(loader, f"cache {self.split}", total=-(-total // size), leave=False):
                batch = {k: value.to(self.run.device) for k, value in batch.items() if isinstance(value, Tensor)}
                for transform in self.transforms:
                    batch = transform(batch, None)
                with self.run.accelerator.autocast():
                    made = compute(self.network, batch, set(keys))
                for name, writer in writers.items():
                    writer.about["computed"] = str(made[name].dtype)
                    writer.add(self.narrow(name, made[name]))
            for writer in writers.values():
                writer.commit()
        kept = ", ".join(f"{name} of {total} samples" for name in keys)
        log.info("%s: kept %s of dataset.%s in %s", self.option, kept, self.split, self.cache.folder)

    def narrow(self, name: str, rows: Tensor) -> Tensor:
        """Return rows in the dtype they are kept in: codes as small integers, float32 as `cache_dtype`.

        Raises:
            ConfigError: float16 cannot hold a number.
        """
        if name == "code":
            most = max(self.network.tokenizer.group_sizes)
            return rows.to(torch.uint8 if most <= 2**8 else torch.int16 if most <= 2**15 else torch.int32)
        if rows.dtype != torch.float32 or self.run.cfg["cache_dtype"] == "float32":
            return rows
        small = rows.half()
        if bool((small.isinf() & rows.isfinite()).any()):
            raise ConfigError("cache_dtype: float16 holds numbers up to 65504, a feature is above; set it to float32")
        return small

    def facts(self, parts: list[str]) -> dict:
        """Return all that decides an entry's numbers; equal facts mean equal entries, wherever files lie."""
        first = self.pictures.sample(0, np.random.default_rng(0))
        probe = next(first[key] for key in PICTURES if key in first)
        model = self.run.cfg["model"]
        return {
            "data": {key: value for key, value in picture_only(self.section).items() if key != "file"},
            "samples": identity(self.pictures.reader),
            "first": hashlib.sha256(probe.numpy().tobytes()).hexdigest(),  # tells of another decoder or transform
            "batch_transforms": self.run.cfg["dataset"]["batch_transforms"],
            "parts": {name: architecture(model[name]) for name in parts},
            "weights": {name: weights_hash(self.network.get_submodule(name)) for name in parts},
            "precision": self.precision(),
            "cache_dtype": self.run.cfg["cache_dtype"],
            "libraries": {name: metadata.version(name) for name in LIBRARIES if find_spec(name)},
        }

    def precision(self) -> str:
        """Return where and how the model computes, such as `cpu torch.bfloat16`."""
        kind = self.run.device.type
        with self.run.accelerator.autocast():
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.get_default_dtype()
        return f"{kind} {dtype}"


def attach(run: Run, data: dict[str, Split], makers: dict[str, Callable[[dict], Split]], settings: Any) -> None:
    """Let a run find what its frozen parts compute in the cache, as its config's `cache_feature` and `cache_eval` say.

    Args:
        run: its `train_batches` and `eval_batches` take the dataset as last argument.
        data: the splits.
        makers: for each split, a dataset's config -> the split under it.
        settings: of the command line.

    Raises:
        ConfigError: that cannot be: splits are augmented, parts are trained.
    """
    splits = ["train", "eval"] if run.cfg["cache_feature"] else ["eval"] if run.cfg["cache_eval"] else []
    if not splits:
        return
    kept = {split: Kept(run, split, data[split], makers[split], settings) for split in splits}
    run.batch_transforms = [*map(Present, run.batch_transforms), Restore(list(kept.values()))]
    train_batches, eval_batches_of = run.train_batches, run.eval_batches
    if "train" in kept:
        run.train_batches = lambda step: kept["train"].batches(lambda dataset: train_batches(step, dataset))
    run.eval_batches = lambda: kept["eval"].batches(eval_batches_of)


def picture_only(split: dict) -> dict:
    """Return what of a dataset's config decides how its images or videos look: stages may read other keys beside."""
    keys = [key for key in PICTURES if key in split["keys"]]
    transforms = [t | {"keys": keys} for t in split["transforms"] if not set(keys).isdisjoint(t["keys"])]
    return split | {"keys": keys, "transforms": transforms}


def without_pictures(split: dict) -> dict | None:
    """Return a dataset's config that gives the same without pictures; None if those are needed for the rest.

    That is the case if boxes follow a crop or flip that nothing else goes through: pictures give its size.
    """
    transforms = []
    for transform in split["transforms"]:
        keys = [key for key in transform["keys"] if key not in PICTURES]
        moved = set(keys) - {"box"} or set(keys) == set(transform["keys"])
        if "box" in split["keys"] and not moved and transform["type"] != "Resize":
            return None
        if keys:
            transforms.append(transform | {"keys": keys})
    return split | {"keys": [key for key in split["keys"] if key not in PICTURES], "transforms": transforms}


def uses_pictures(run: Run) -> bool:
    """Tell whether a loss, metric or callback names the batch's pictures."""
    users = [*run.loss.values(), *run.metric, *run.callbacks]
    paths = [value for user in users for value in vars(user).values() if isinstance(value, str)]
    return any(path in [f"batch.{key}" for key in PICTURES] for path in paths)


def architecture(node: Any) -> Any:
    """Return a part's config without where its weights came from: those themselves count."""
    if isinstance(node, list):
        return [architecture(child) for child in node]
    if not isinstance(node, dict):
        return node
    return {key: architecture(child) for key, child in node.items() if key not in ("pretrained", "weights")}


def weights_hash(module: nn.Module) -> str:
    """Return the SHA-256 of a module's state: names, shapes, dtypes and numbers."""
    found = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
