"""Evaluation protocols: under which rules masks become scores. Numbers of two protocols must not be compared.

A protocol is declared, not programmed: `Protocol` says what is scored and how, `PROTOCOLS` has those of the literature,
`Plan` is one of them on a certain dataset, with the card that goes with every result.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..registry import register
from .score import BY_FRAME, CLASS_SCORES, SCORES, TITLES, VIDEO_SCORES

REGIONS = {  # kinds of pixels whose label is no plain fact
    "border": "the line that annotators left around objects",
    "crowd": "groups of things under one label",
    "overlap": "pixels that several objects claim",
    "unlabelled": "pixels that nobody labelled",
}
MASKS = {"attention": "slot attention", "mask": "decoder masks"}


@register
@dataclass(frozen=True)
class Protocol:
    """The rules of an evaluation. In a config: `protocol=["spot", dict(type="Protocol", name="mine", ...)]`.

    Every protocol scores slot attention and decoder masks where a method has both. Objects are the true ids from 1 on,
    0 is the background: scores whose names end in `_fg`, `mbo_i`, `mbo_c`, `corloc`, `j`, `f` and `jf` leave it out,
    the others count it as an object. Videos are flattened over time, so that a slot must keep its object.

    Attributes:
        name: by which it is chosen.
        scores: what is computed, names of `learn.score.SCORES`.
        source: whose rules these are.
        headline: the masks to quote: `method`, those that the config makes segments of; or `mask`, the decoder's.
        size: side of the square in which masks and labels are compared, pixels; None = as the config reads labels.
        video_size: the same for videos; None = `size`.
        unit: what gets a score of its own: `video`, an image or a whole video; or `frame`, an image or a frame.
        average: what counts once in the mean: `unit`; `object`, each true object; or `batch`, so that the mean is one
            of batches' means and depends on their size.
        ignored: regions (keys of `REGIONS`) that are taken out of prediction and truth; others are background.
        unclaimed: regions that belong to no true segment but stay in the areas of predicted ones.
        empty: ARI_fg of a unit without foreground: `excluded` from the mean, or `one`.
        integers: `exact`; or `legacy_int64`, which repeats the overflow behind published values of ARI.
        note: what else a reader should know.

    Raises:
        ValueError: a value that is none of these.
    """

    name: str
    scores: tuple[str, ...]
    source: str = "this project"
    headline: Literal["method", "mask"] = "method"
    size: int | None = None
    video_size: int | None = None
    unit: Literal["video", "frame"] = "video"
    average: Literal["unit", "object", "batch"] = "unit"
    ignored: tuple[str, ...] = ()
    unclaimed: tuple[str, ...] = ()
    empty: Literal["excluded", "one"] = "excluded"
    integers: Literal["exact", "legacy_int64"] = "exact"
    note: str = ""

    def __post_init__(self):
        for name in ("scores", "ignored", "unclaimed"):  # lists in configs
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, values, known in (
            ("scores", self.scores, SCORES),
            ("headline", [self.headline], ("method", "mask")),
            ("unit", [self.unit], ("video", "frame")),
            ("average", [self.average], ("unit", "object", "batch")),
            ("ignored", self.ignored, REGIONS),
            ("unclaimed", self.unclaimed, REGIONS),
            ("empty", [self.empty], ("excluded", "one")),
            ("integers", [self.integers], ("exact", "legacy_int64")),
        ):
            for value in values:
                if value not in known:
                    raise ValueError(f"protocol {self.name!r}: {name} is {value!r}; known are {', '.join(known)}")
        if not self.name.isidentifier():
            raise ValueError(f"protocol {self.name!r}: a name is made of letters, digits and _")
        if not self.scores:
            raise ValueError(f"protocol {self.name!r}: scores is empty; known are {', '.join(SCORES)}")
        if set(self.ignored) & set(self.unclaimed):
            raise ValueError(f"protocol {self.name!r}: a region is either ignored or unclaimed")
        if self.average == "object" and not set(self.scores) <= set(VIDEO_SCORES):
            raise ValueError(f"protocol {self.name!r}: only {', '.join(VIDEO_SCORES)} are averaged over objects")
        for size in (self.size, self.video_size):
            if size is not None and size < 1:
                raise ValueError(f"protocol {self.name!r}: size is a number of pixels, not {size}")

    def of_videos(self) -> bool:
        """Return whether all that it scores is defined for videos only."""
        return set(self.scores) <= set(VIDEO_SCORES)


_VVO = ("ari", "ari_fg", "mbo", "miou")
PROTOCOLS: dict[str, Protocol] = {
    each.name: each
    for each in (
        Protocol(
            "vvo",
            _VVO,
            source="VQ-VFM-OCL and its successors, without their overflow",
            note="published ARI at 384 x 384 and of videos overflowed: compare it with legacy_int64",
        ),
        Protocol(
            "legacy_int64",
            _VVO,
            source="VQ-VFM-OCL as published",
            average="batch",
            integers="legacy_int64",
            note="only to repeat published tables, whose ARI is wrong beyond 55 000 pixels; batches without a valid "
            "unit are left out, where the published code gives NaN",
        ),
        Protocol(
            "msf",
            _VVO,
            source="MultiScaleFusion and later siblings",
            unclaimed=("unlabelled",),
            note="what is not an object but labelled is one segment, 0",
        ),
        Protocol(
            "savi",
            ("ari", "ari_fg"),
            source="SAVi",
            empty="one",
            note="theirs is in float32",
        ),
        Protocol(
            "spot",
            ("ari_fg", "mbo_i", "mbo_c", "miou_fg"),
            source="SPOT",
            headline="mask",
            size=320,
            video_size=128,
            unit="frame",
            ignored=("overlap",),
            empty="one",
            note="the paper scores frames of MOVi as images; give the model 224 x 224 pixels to compare with it",
        ),
        Protocol(
            "videosaur",
            ("ari_fg", "mbo_fg"),
            source="VideoSAUR and SlotContrast",
            headline="mask",
            size=224,
            empty="one",
            note="SlotContrast also scores at 336 and 518",
        ),
        Protocol(
            "videosaur_frames",
            ("ari_fg", "mbo_fg"),
            source="VideoSAUR, its scores of single frames",
            headline="mask",
            size=224,
            unit="frame",
            empty="one",
            note="a slot may change its object from frame to frame",
        ),
        Protocol(
            "davis",
            ("j", "f", "jf"),
            source="DAVIS 2017, unsupervised",
            headline="mask",
            average="object",
            note="one slot per object in the whole video, chosen to maximise J&F; the benchmark has full size",
        ),
        Protocol(
            "strict",
            ("ari", "ari_fg", "ami", "ami_fg", "mbo", "mbo_i", "mbo_c", "miou", "miou_fg", "corloc"),
            ignored=tuple(REGIONS),
            note="counts only pixels whose label is certain",
        ),
    )
}


@dataclass(frozen=True)
class Plan:
    """A protocol on a dataset.

    Attributes:
        protocol: the rules.
        segment: batch entry of the true objects.
        semantic: batch entry of the classes, or None.
        ignored, unclaimed: batch entries of bool maps.
        scores: those that the dataset has labels for.
        facts: the dataset's part of the card.
    """

    protocol: Protocol
    segment: str = "segment"
    semantic: str | None = None
    ignored: tuple[str, ...] = ()
    unclaimed: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)

    def card(self, masks: Iterable[str], headline: str, size: Iterable[int], video: bool) -> dict[str, Any]:
        """Return the rules in words, for people who read a result.

        Args:
            masks: of `MASKS`, those that the method has.
            headline: the one to quote.
            size: height and width in which masks and labels are compared, pixels.
            video: whether samples are videos.
        """
        rules = self.protocol
        unit = {"video": "video", "frame": "frame"}[rules.unit] if video else "image"
        counted = [TITLES[name] for name in self.scores if not SCORES[name].foreground]
        left_out = [TITLES[name] for name in self.scores if SCORES[name].foreground]
        background = [f"an object in {', '.join(counted)}"] * bool(counted)
        background += [f"left out in {', '.join(left_out)}"] * bool(left_out)
        single = [TITLES[name] for name in self.scores if name in BY_FRAME] if video and rules.unit == "video" else []
        height, width = size
        lines = {
            "protocol": rules.name,
            "rules of": rules.source,
            "masks": ", ".join(MASKS.get(each, each) + " (to quote)" * (each == headline) for each in masks),
            "size": f"{height} x {width} pixels: masks bilinear, then the largest; labels nearest-exact",
            "background": "; ".join(background),
            "left out": self._regions(rules.ignored),
            "in no object": self._regions(rules.unclaimed),
            "unit": f"each {unit}" + f" ({', '.join(single)}: each frame)" * bool(single),
            "mean over": {"unit": f"{unit}s", "object": "objects", "batch": "batches' means"}[rules.average],
            "without objects": self._empty(unit),
            "arithmetic": {
                "exact": "exact counts, float64",
                "legacy_int64": "legacy_int64: ARI's products overflow as published",
            }[rules.integers],
            "note": rules.note,
        }
        return {key: value for key, value in lines.items() if value}

    def _regions(self, kinds: tuple[str, ...]) -> str:
        reasons: dict[str, list[str]] = {}
        for kind in kinds:
            reasons.setdefault(self.facts.get(kind, ""), []).append(kind)
        return "; ".join(", ".join(same) + f" ({why})" * bool(why) for why, same in reasons.items())

    def _empty(self, unit: str) -> str:
        scores = [name for name in self.scores if SCORES[name].foreground]
        one = "ari_fg" in scores and self.protocol.empty == "one"
        others = ", ".join(TITLES[name] for name in scores if not (one and name == "ari_fg"))
        return "; ".join(["ARI_fg is 1"] * one + [f"the {unit} does not count in {others}"] * bool(others))


def with_classes(scores: Iterable[str], classes: bool, video: bool) -> tuple[str, ...]:
    """Return the scores that a dataset has labels for: some need a map of classes, some videos."""
    return tuple(
        name for name in scores if (classes or name not in CLASS_SCORES) and (video or name not in VIDEO_SCORES)
    )
