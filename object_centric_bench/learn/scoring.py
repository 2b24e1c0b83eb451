"""Scores under several protocols in one pass: maps and contingency tables are made once for all that share them."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..registry import ConfigError
from .callback import MaskToSegment, mask_to_segment
from .contingency import compact, join, parts
from .metric import Segmentation
from .path import fetch_tensor
from .protocol import MASKS, Plan, Protocol
from .score import BY_FRAME, CLASS_SCORES, SCORES, VIDEO_SCORES, Evidence

Scored = dict[str, tuple[Tensor, Tensor]]
Source = tuple[str, str, tuple[str, ...], tuple[str, ...]]  # paths: prediction, target, ignored, unclaimed

CONFIG = "config"  # the name of the config's own scores among the cards


def name_of(protocol: str, masks: str, score: str) -> str:
    """Return the name under which a protocol's score is averaged, such as `spot/mask/mbo_i`."""
    return f"{protocol}/{masks}/{score}"


def nested(values: Mapping[str, Any], protocols: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split values by name into those of the config, and protocol -> masks -> score -> value."""
    protocols = set(protocols)
    own: dict[str, Any] = {}
    under: dict[str, Any] = {}
    for name, value in values.items():
        protocol, _, rest = name.partition("/")
        if protocol in protocols and rest:
            masks, _, score = rest.rpartition("/")
            under.setdefault(protocol, {}).setdefault(masks, {})[score] = value
        else:
            own[name] = value
    return own, under


class Scoring:
    """A metric: those of the config and, from the same tables, the scores of protocols, for all masks of the method.

    Args:
        plans: the protocols on this dataset.
        metrics: of the config; they keep their names.
        callbacks: of the run; `MaskToSegment` among them tells which masks the config makes segments of.

    Attributes:
        masks: of `MASKS`, those that the method has; known after the first batch.
        sizes: protocol, or `config`, -> height and width in which maps were compared, pixels.
        video: whether samples are videos.
    """

    def __init__(self, plans: Sequence[Plan], metrics: Sequence[Callable], callbacks: Iterable[Any]):
        self.plans, self.metrics = tuple(plans), tuple(metrics)
        self.maker = next((each for each in callbacks if isinstance(each, MaskToSegment)), None)
        self.masks: tuple[str, ...] = ()
        self.sizes: dict[str, tuple[int, int]] = {}
        self.video = False

    @property
    def own(self) -> str:
        """The masks that the config makes segments of, "" if it makes none."""
        return self.maker.mask.removeprefix("output.") if self.maker is not None else ""

    def headline(self, plan: Plan) -> str:
        """Return which of `masks` a protocol quotes: the decoder's if the rules say so and the method has them."""
        if plan.protocol.headline == "mask" and "mask" in self.masks:
            return "mask"
        return self.own if self.own in self.masks else self.masks[0]

    def cards(self) -> dict[str, dict[str, Any]]:
        """Return protocol -> its rules in words, and `config` -> those of the config's scores; after a first batch."""
        cards = {
            plan.protocol.name: plan.card(self.masks, self.headline(plan), self.sizes[plan.protocol.name], self.video)
            for plan in self.plans
        }
        own = next((metric for metric in self.metrics if isinstance(metric, Segmentation)), None)
        if own is None or CONFIG not in self.sizes:
            return cards
        note = "" if own.ignore is None else f"pixels of {own.ignore} are left out of prediction and truth"
        rules = Protocol(CONFIG, own.scores, source="the config's `metric` section", note=note)
        masks = self.own or own.prediction
        card = Plan(rules, scores=rules.scores).card((masks,), masks, self.sizes[CONFIG], self.video)
        return {CONFIG: card, **cards}

    def __call__(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> Scored:
        """Score a batch.

        Returns:
            name -> (value (b) float64; valid (b) bool, or weight (b) float64), of the config's metrics under their
            names, of protocols see `name_of`.

        Raises:
            ConfigError: the method has no masks, or a map is missing.
            ValueError: maps that do not fit together.
        """
        maps = _Maps(batch, output, self.maker)
        if self.plans and not self.masks:
            self.masks = tuple(kind for kind in MASKS if kind in output)
            if self.maker is not None and self.own not in MASKS:
                self.masks = (*self.masks, self.own)
            if not self.masks:
                raise ConfigError(
                    f"a protocol scores {' or '.join(MASKS)}; the model gives {', '.join(sorted(output))}"
                )
        result: Scored = {}
        wanted: dict[Source, list[_OfConfig | _OfProtocol]] = defaultdict(list)
        for metric in self.metrics:
            if isinstance(metric, Segmentation):
                _, target, _ = metric.fetch(batch, output)  # which checks the maps
                self.sizes[CONFIG], self.video = (target.shape[-2], target.shape[-1]), target.ndim == 4
                ignored = () if metric.ignore is None else (metric.ignore,)
                wanted[metric.prediction, metric.target, ignored, ()].append(_OfConfig(metric))
            else:
                result.update(metric(batch, output))
        for plan in self.plans:
            for source, each in self._wanted(plan, maps):
                wanted[source].append(each)
        for source, all_of_it in wanted.items():
            result.update(score_all(maps, source, all_of_it))
        return result

    def _wanted(self, plan: Plan, maps: "_Maps") -> Iterable[tuple[Source, "_OfProtocol"]]:
        """Yield which maps a protocol compares, and for which scores."""
        classes = tuple(name for name in plan.scores if name in CLASS_SCORES)
        objects = tuple(name for name in plan.scores if name not in CLASS_SCORES)
        for entry, scores in ((plan.segment, objects), (plan.semantic, classes)):
            if not scores:
                continue
            target = maps.fetch(f"batch.{entry}")
            self.video = target.ndim == 4
            self.sizes[plan.protocol.name] = (target.shape[-2], target.shape[-1])
            ignored, unclaimed = (tuple(f"batch.{name}" for name in names) for names in (plan.ignored, plan.unclaimed))
            for kind in self.masks:
                source = (maps.segment(kind, target.shape), f"batch.{entry}", ignored, unclaimed)
                yield source, _OfProtocol(plan, kind, scores)


class _Maps:
    """The maps of a batch by path; index maps of other sizes are made when they are asked for, once."""

    def __init__(self, batch: Mapping[str, Any], output: Mapping[str, Any], maker: MaskToSegment | None):
        self.batch, self.output, self.maker = batch, output, maker
        self.made: dict[str, Tensor] = {}

    def segment(self, kind: str, shape: Sequence[int]) -> str:
        """Return the path of the index map of a method's masks in the size of labels of that shape."""
        size = tuple(shape[-2:])
        if self.maker is not None and self.maker.mask == f"output.{kind}" and tuple(self.maker.size) == size:
            return "output.segment"
        path = f"{kind}@{size[0]}x{size[1]}"
        if path not in self.made:
            mask = fetch_tensor(f"output.{kind}", self.batch, self.output, "a protocol's masks")
            self.made[path] = mask_to_segment(mask, list(size))
        return path

    def fetch(self, path: str) -> Tensor:
        """Return the map at a path; raise `ConfigError` where there is none."""
        return self.made[path] if path in self.made else fetch_tensor(path, self.batch, self.output, "a protocol's map")

    def region(self, paths: tuple[str, ...], shape: Sequence[int]) -> Tensor | None:
        """Return the union of bool maps as (b t h w), None of none."""
        union = None
        for path in paths:
            region = self.fetch(path)
            if region.shape != shape or region.dtype != torch.bool:
                raise ValueError(f"{path} is {tuple(region.shape)} {region.dtype}, not {tuple(shape)} bool")
            union = region if union is None else union | region
        return None if union is None else as_video(union)


def as_video(maps: Tensor) -> Tensor:
    """Return maps (b h w), (b n) or (b t h w) as (b t h w), pictures as videos of one frame."""
    return maps if maps.ndim == 4 else maps.reshape(len(maps), 1, -1, maps.shape[-1])


@dataclass(frozen=True)
class _OfConfig:
    """Scores that a metric of the config wants."""

    metric: Segmentation
    framewise = False

    def score(self, evidence: Evidence) -> Scored:
        return self.metric.score(evidence.table("video"))

    def finish(self, scored: Scored) -> Scored:
        return scored


@dataclass(frozen=True)
class _OfProtocol:
    """Scores of one map of labels and one kind of masks that a protocol wants."""

    plan: Plan
    kind: str
    scores: tuple[str, ...]

    @property
    def framewise(self) -> bool:
        return self.plan.protocol.unit == "frame" or any(score in VIDEO_SCORES for score in self.scores)

    def score(self, evidence: Evidence) -> Scored:
        """Return a value and a weight per sample."""
        rules, frames, result = self.plan.protocol, evidence.target.shape[1], {}
        for score in self.scores:
            unit = "frame" if score in BY_FRAME else rules.unit
            value, valid = SCORES[score].function(evidence, unit, rules.integers)
            if score == "ari_fg" and rules.empty == "one":
                value, valid = torch.where(valid, value, 1.0), torch.ones_like(valid)
            if unit == "frame" and score not in VIDEO_SCORES and frames > 1:
                value, valid = over_frames(value, valid, frames)
            result[name_of(rules.name, self.kind, score)] = value, valid
        return result

    def finish(self, scored: Scored) -> Scored:
        """Return the scores of a whole batch with the weights that its samples have in the mean."""
        if self.plan.protocol.average != "batch":
            return scored
        names = [name_of(self.plan.protocol.name, self.kind, score) for score in self.scores]
        weighted = {name: scored[name][1].double() / scored[name][1].sum().clamp(min=1) for name in names}
        return scored | {name: (scored[name][0], weight) for name, weight in weighted.items()}


def over_frames(value: Tensor, valid: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Return the mean over the valid frames of each video, and their number, which is its weight.

    Args:
        value: (b t) float64, flat.
        valid: (b t) bool, flat.
        frames: t.
    """
    value, valid = value.view(-1, frames), valid.view(-1, frames)
    weight = valid.sum(dim=1, dtype=torch.float64)
    return torch.where(valid, value, 0.0).sum(dim=1) / weight.clamp(min=1), weight


def score_all(maps: _Maps, source: Source, wanted: Sequence[_OfConfig | _OfProtocol]) -> Scored:
    """Return all scores of one pair of maps."""
    prediction, target = maps.fetch(source[0]), maps.fetch(source[1])
    if prediction.shape != target.shape:
        raise ValueError(f"{source[0]} {tuple(prediction.shape)} and {source[1]} {tuple(target.shape)}: shapes differ")
    ignored, unclaimed = (maps.region(paths, target.shape) for paths in source[2:])
    valid = None if ignored is None else ~ignored
    claimed = None if unclaimed is None else (~unclaimed if valid is None else valid & ~unclaimed)
    shape = as_video(target).shape
    prediction, target, rows, columns = compact(prediction.flatten(1), target.flatten(1))
    prediction, target = prediction.view(shape), target.view(shape)
    framewise = any(each.framewise for each in wanted)
    pieces = []
    for part in parts(len(target), rows * columns * (shape[1] if framewise else 1)):
        counted, owned = (None if each is None else each[part] for each in (valid, claimed))
        evidence = Evidence(prediction[part], target[part], rows, columns, counted, owned, framewise)
        pieces.append({name: scored for each in wanted for name, scored in each.score(evidence).items()})
    result = join(pieces)
    for each in wanted:
        result = each.finish(result)
    return result
