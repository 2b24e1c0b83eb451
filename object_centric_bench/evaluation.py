"""Which protocols an evaluation uses, and which labels they need: from names and the config to plans and a dataset."""

from collections.abc import Iterable, Sequence
from typing import Any

from . import datum, learn  # noqa: F401, importing them registers their classes
from .datum.dataset import Dataset
from .datum.labels import Split, WithLabels, sized
from .learn.protocol import PROTOCOLS, Plan, Protocol, with_classes
from .registry import CLASSES, ConfigError, build, faults, suggest

DEFAULT = ("vvo",)


def protocol_faults(cfg: dict) -> list[str]:
    """Return what is wrong with a config's `protocol` section: names, or dicts that describe a `Protocol`."""
    section = cfg.get("protocol", [])
    if not isinstance(section, list):
        return [f"protocol: a list of names such as ['vvo'], not {section!r}"]
    found = []
    for index, each in enumerate(section):
        if isinstance(each, dict):
            found += [] if each.get("type") == "Protocol" else [f"protocol.{index}.type: 'Protocol' is wanted"]
            found += faults(each, f"protocol.{index}")
        elif each not in PROTOCOLS:
            found.append(f"protocol.{index}: no protocol {each!r}; {suggest(str(each), PROTOCOLS)}")
    return found


def choose(cfg: dict, names: Sequence[str] | None = None) -> list[Plan]:
    """Return the protocols that score a config's evaluation split.

    Args:
        cfg: completed.
        names: from the command line, `all` for those that the dataset allows; None = the config's `protocol` section,
            `vvo` if it has none. Protocols that the section describes have names too.

    Returns:
        No plan if none is asked for and the config scores no segmentations.

    Raises:
        ConfigError: an unknown name, or a protocol that the dataset cannot serve; all are named.
    """
    section = [build(each, f"protocol.{n}") for n, each in enumerate(cfg.get("protocol", DEFAULT))]
    known = PROTOCOLS | {each.name: each for each in section if isinstance(each, Protocol)}
    evaluated = cfg["dataset"]["eval"]
    if "segment" not in evaluated["keys"] or not cfg["metric"]:
        if names:
            raise ConfigError(
                "--protocol: this config scores no segmentations (its evaluation split reads no 'segment')"
            )
        return []
    every = names is not None and "all" in names
    wanted = [each.name if isinstance(each, Protocol) else each for each in section] if names is None else names
    chosen = list(known) if every else list(dict.fromkeys(wanted))
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ConfigError("\n".join(f"--protocol: no {name!r}; {suggest(name, [*known, 'all'])}" for name in unknown))
    plans, reasons = [], []
    for name in chosen:
        plan = plan_for(known[name], evaluated)
        if isinstance(plan, Plan):
            plans.append(plan)
        elif not every:
            reasons.append(f"--protocol {name}: {plan}")
    if reasons:
        raise ConfigError("\n".join(reasons))
    return plans


def plan_for(rules: Protocol, evaluated: dict) -> Plan | str:
    """Return a protocol on the dataset of a config's `dataset.eval` section, or why it cannot be used there."""
    dataset: type[Dataset] = CLASSES[evaluated["type"]]
    video = "video" in evaluated["keys"]
    scores = with_classes(rules.scores, bool(dataset.class_map), video)
    if not scores:
        return "it scores videos, the dataset has images" if rules.of_videos() else "the dataset has no map of classes"
    for kind in (*rules.ignored, *rules.unclaimed):
        if kind not in dataset.regions and kind not in dataset.without:
            return f"{dataset.__name__} does not say which pixels are {kind!r}; see its `regions` and `without`"
    missing = [kind for kind in rules.unclaimed if kind not in dataset.regions]
    if missing:
        return f"{dataset.__name__} has no {', '.join(missing)} pixels ({dataset.without[missing[0]]})"
    size = (rules.video_size if video else None) or rules.size
    size = None if size is None or stored_size(evaluated) == (size, size) else size

    def entry(key: str) -> str:
        return key if size is None else sized(key, size)

    def entries(kinds: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry(dataset.regions[kind]) for kind in kinds if kind in dataset.regions))

    needs_classes = len(scores) > len(with_classes(scores, False, video))
    return Plan(
        rules,
        segment=entry("segment"),
        semantic=entry(dataset.class_map) if needs_classes else None,
        ignored=entries(rules.ignored),
        unclaimed=entries(rules.unclaimed),
        scores=scores,
        facts=dataset.without,
    )


def stored_size(evaluated: dict) -> tuple[int, int] | None:
    """Return the height and width that the evaluation split's labels are resized to, None if they are not."""
    for transform in evaluated["transforms"]:
        if transform["type"] == "Resize" and "segment" in transform["keys"]:
            size = transform["size"]
            return (size, size) if isinstance(size, int) else tuple(size)
    return None


def labelled(evaluated: dict, plans: Iterable[Plan]) -> tuple[dict, list[str]]:
    """Return what the protocols need of a config's `dataset.eval` section.

    Returns:
        section: with the label maps that are to be read beside `segment`, transformed like it.
        further: names of maps in other sizes, for `WithLabels`.
    """
    plans = list(plans)
    entries = [(plan.segment, plan.semantic, *plan.ignored, *plan.unclaimed) for plan in plans]
    needed = list(dict.fromkeys(entry for each in entries for entry in each if entry is not None))
    dataset: type[Dataset] = CLASSES[evaluated["type"]]
    read = list(dict.fromkeys(entry.partition("@")[0] for entry in needed))
    stored = [key for key in read if key not in dataset.derived]
    keys = list(dict.fromkeys([*evaluated["keys"], *read]))
    transforms: list[dict[str, Any]] = []
    for transform in evaluated["transforms"]:
        acted = transform.get("keys", [])
        if "segment" in acted:
            transform = transform | {"keys": list(dict.fromkeys([*acted, *stored]))}
        transforms.append(transform)
    return evaluated | {"keys": keys, "transforms": transforms}, [entry for entry in needed if "@" in entry]


def build_labelled(evaluated: dict, plans: Iterable[Plan], data_dir: Any) -> Split:
    """Return the evaluation split with the labels that the protocols need.

    Raises:
        ConfigError, DataError: it cannot be built; a map that the file lacks is named with the command that makes it.
    """
    section, further = labelled(evaluated, plans)
    dataset = build(section, "dataset.eval", data_dir=data_dir)
    return WithLabels(dataset, further) if further else dataset
