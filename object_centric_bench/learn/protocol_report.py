"""Results under protocols: as part of `eval.json`, and as tables that begin with the protocol's card."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from .protocol import MASKS
from .score import SCORES, TITLES
from .scoring import Scoring, nested


def protocol_results(scores: dict[str, float], excluded: dict[str, int], scoring: Scoring) -> dict[str, dict[str, Any]]:
    """Return what an evaluation found under each protocol.

    Args:
        scores: name -> mean, of all that was scored.
        excluded: name -> number of samples that a score is not defined for.
        scoring: the metric that gave them.

    Returns:
        protocol -> `card`, `headline` (the masks to quote), and `scores` and `excluded`, both masks -> score -> value.
    """
    names = [plan.protocol.name for plan in scoring.plans]
    (_, found), (_, left_out), cards = nested(scores, names), nested(excluded, names), scoring.cards()
    return {
        plan.protocol.name: {
            "card": cards[plan.protocol.name],
            "headline": scoring.headline(plan),
            "scores": _in_order(found.get(plan.protocol.name, {}), scoring.masks, plan.scores),
            "excluded": _in_order(left_out.get(plan.protocol.name, {}), scoring.masks, plan.scores),
        }
        for plan in scoring.plans
    }


def _in_order(values: dict[str, dict[str, Any]], masks: Iterable[str], scores: tuple[str, ...]) -> dict[str, Any]:
    return {
        kind: {each: values[kind][each] for each in scores if each in values[kind]} for kind in masks if kind in values
    }


def protocol_table(result: dict[str, Any], samples: int, unit: str = "images") -> str:
    """Return a protocol's card and, below it, a table of its scores with a column for each kind of masks.

    Args:
        result: an entry of `protocol_results`.
        samples: number of images or videos.
        unit: what these are.
    """
    card, excluded = result["card"], result["excluded"]
    lines = [f"protocol {card['protocol']}"]
    for key, value in card.items():
        if key != "protocol":
            lines += textwrap.wrap(value, 118, initial_indent=f"  {key + ':':<17}", subsequent_indent=" " * 19)
    titles = [MASKS.get(kind, kind) + " *" * (kind == result["headline"]) for kind in excluded]
    lines.append(f"{'score':<16}" + "".join(f"{title:>18}" for title in titles) + f"{unit:>10}{'excluded':>10}")
    for score, out in next(iter(excluded.values()), {}).items():  # the same for all masks: the truth decides
        values = [result["scores"].get(kind, {}).get(score) for kind in excluded]
        cells = "".join(f"{'-' if value is None else format(value, '.4f'):>18}" for value in values)
        lines.append(f"{TITLES[score]:<16}{cells}{samples - out:>10}{out:>10}")
    return "\n".join([*lines, "* the masks to quote"] if len(excluded) > 1 else lines)


def side_by_side(results: Mapping[str, dict[str, Any]]) -> str:
    """Return a table of the scores to quote, with a row for each protocol: they follow different rules, see the cards.

    Args:
        results: of `protocol_results`.
    """
    quoted = {name: result["scores"].get(result["headline"], {}) for name, result in results.items()}
    columns = [score for score in SCORES if any(score in scores for scores in quoted.values())]
    width = max(map(len, ["protocol", *quoted])) + 2
    lines = [f"{'protocol':<{width}}" + "".join(f"{TITLES[score]:>9}" for score in columns)]
    for name, scores in quoted.items():
        cells = [format(scores[score], ".4f") if score in scores else "-" for score in columns]
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines)
