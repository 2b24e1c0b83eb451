"""The report as one HTML text: no network, no file beside it."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files as resources
from typing import Any

from .. import config
from ..learn.protocol import MASKS
from ..learn.score import SCORES, TITLES
from .curves import panels
from .examples import Example
from .files import RunFiles

LONG = 40  # letters of a cell's text from which on it may be broken anywhere, so that a phone shows all of it
HEADLINES = {"ari": "ARI", "ari_fg": "ARI_fg", "mbo": "mBO", "miou": "mIoU"}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<script type="application/json" id="curves">{curves}</script>
<script>{script}</script>
</body>
</html>
"""


def page(run: RunFiles, examples: list[Example], why_none: str, parent: tuple[str, dict] | None) -> str:
    """Return the report of a run.

    Args:
        run: its files.
        examples: pictures to show.
        why_none: why there are no pictures, if so.
        parent: name and resolved config to which this one is compared, or None.
    """
    here = resources(__package__)
    drawn = panels(run)
    sections = [
        head(run),
        scores(run),
        pictures(examples, why_none),
        curves(drawn),
        seconds(run),
        settings(run, parent),
        environment(run),
    ]
    return PAGE.format(
        title=html.escape(run.name),
        style=here.joinpath("style.css").read_text(),
        script=here.joinpath("chart.js").read_text(),
        curves=json.dumps(drawn, allow_nan=False).replace("<", "\\u003c"),  # no text can end the script
        body="\n".join(section for section in sections if section),
    )


def head(run: RunFiles) -> str:
    """Return title, what was trained, and the scores that papers print, large."""
    steps = max([row["step"] for row in [*run.train, *run.eval]], default=0)
    dataset = run.config["dataset"]["eval"]["file"]
    facts = f"{run.config['model']['type']} on {dataset}; {steps} of {run.config['total_steps']} steps"
    found = run.result.get("scores", {})
    tiles = [
        f'<div class="tile"><b>{100 * found[name]:.1f}</b>{title}</div>'
        for name, title in HEADLINES.items()
        if found.get(name) is not None
    ]
    scored = "not scored yet"
    if tiles:
        scored = f"per cent, best checkpoint (step {run.result['step']}), {run.result['num_images']} samples"
    return (
        f"<h1>{html.escape(run.name)}</h1><p class='soft'>{html.escape(facts)}</p>"
        f"<div class='tiles'>{''.join(tiles)}</div><p class='soft'>{html.escape(scored)}</p>"
    )


def scores(run: RunFiles) -> str:
    """Return the scores by protocol, each with its card, or a note that the run was not scored."""
    if not run.result:
        return "<h2>Scores</h2><p>Not scored yet: <code>python eval.py --ckpt_file RUN --data_dir DIR</code></p>"
    found, excluded = run.result["scores"], run.result["excluded"]
    plain = [(TITLES.get(name, name), value, excluded.get(name, 0)) for name, value in found.items()]
    text = "<h2>Scores</h2>" + table(["score", "mean", "samples excluded"], plain)
    protocols = run.result.get("protocols", {})
    if len(protocols) > 1:
        text += f"<h3>Under all protocols, masks to quote</h3>{side_by_side(protocols)}"
    for name, protocol in protocols.items():
        text += f"<h3>Protocol {html.escape(name)}</h3>{protocol_table(protocol)}"
    return text


def side_by_side(protocols: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of the scores to quote, with a row for each protocol."""
    quoted = {name: each["scores"].get(each["headline"], {}) for name, each in protocols.items()}
    columns = [score for score in SCORES if any(score in values for values in quoted.values())]
    rows = ((name, *(values.get(score, "") for score in columns)) for name, values in quoted.items())
    return table(["protocol", *(TITLES[score] for score in columns)], rows)


def protocol_table(protocol: Mapping[str, Any]) -> str:
    """Return the scores of a protocol, a column per kind of mask, and its card."""
    masks = protocol["scores"]
    names = list(dict.fromkeys(name for values in masks.values() for name in values))
    rows = [(TITLES.get(name, name), *(values.get(name, "") for values in masks.values())) for name in names]
    heads = [MASKS.get(kind, kind) + " (to quote)" * (kind == protocol["headline"]) for kind in masks]
    card = protocol["card"]
    lines = card.items() if isinstance(card, Mapping) else [("card", card)]
    listed = "".join(f"<li>{html.escape(str(key))}: {html.escape(str(value))}</li>" for key, value in lines)
    return table(["score", *heads], rows) + f"<details><summary>its rules</summary><ul>{listed}</ul></details>"


def table(heads: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return an HTML table; numbers and the heads above them stand to the right, floats with four decimals."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"<td class='number'>{value:.4f}</td>"
        if isinstance(value, int):
            return f"<td class='number'>{value}</td>"
        text = str(value)
        return f"<td{' class=long' * (len(text) > LONG)}>{html.escape(text)}</td>"

    rows = [list(row) for row in rows]
    numeric = [any(isinstance(value, (int, float)) for value in column) for column in zip(*rows, strict=True)]
    top = "".join(
        f"<th{' class=number' * right}>{html.escape(head)}</th>"
        for head, right in zip(heads, numeric or [False] * len(heads), strict=True)
    )
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def pictures(examples: list[Example], why_none: str) -> str:
    """Return the best, middle and worst samples: picture, truth, prediction, what each slot holds."""
    text = "<h2>Pictures</h2>"
    if not examples:
        return f"{text}<p>{html.escape(why_none)}</p>"
    group = ""
    for example in examples:
        if example.group != group:
            group = example.group
            text += f"<h3>{html.escape(group)}</h3>"
        cells = "".join(
            f'<div><img src="{url}" alt="{html.escape(name)}" loading="lazy"><small>{html.escape(name)}</small></div>'
            for name, url in example.cells
        )
        caption = html.escape(example.caption)
        strip = f'class="strip frames" style="--columns: {example.columns}"' if example.columns else 'class="strip"'
        text += f"<figure><div {strip}>{cells}</div><figcaption>{caption}</figcaption></figure>"
    return text


def curves(drawn: Mapping[str, list]) -> str:
    """Return the places that `chart.js` draws in."""
    if not drawn:
        return "<h2>Curves</h2><p>The log is empty.</p>"
    boxes = "".join(
        f'<div class="chart" data-panel="{html.escape(title)}"><h3>{html.escape(title)}</h3>'
        f'<div class="legend"></div><svg role="img" aria-label="{html.escape(title)} over steps"></svg></div>'
        for title in drawn
    )
    hint = "Point for values, drag to zoom, double-click to go back, click a name to hide its line."
    return f"<h2>Curves</h2><p class='soft'>{hint}</p><div class='charts'>{boxes}</div>"


def seconds(run: RunFiles) -> str:
    """Return how long steps took, and what the run's time went into."""
    values = sorted(row["seconds_per_step"] for row in run.timing if row.get("seconds_per_step") is not None)
    if not values:
        return ""
    middle = values[len(values) // 2]
    total = run.config["total_steps"] * middle
    text = f"{middle:.3f} s per step in the middle, {values[0]:.3f} to {values[-1]:.3f}; all {total / 60:.1f} min."
    spent: dict[str, float] = {}
    for row in run.timing:
        for part, each in row.get("seconds", {}).items():
            spent[part] = spent.get(part, 0.0) + each
    whole = sum(spent.values())
    parts = [
        (part, f"{each / 60:.1f}", f"{100 * each / whole:.0f} %")
        for part, each in sorted(spent.items(), key=lambda pair: -pair[1])
    ]
    went = table(["where it went", "minutes", "share"], parts) if whole else ""
    profiled = f"<pre>{html.escape(run.profile)}</pre>" if run.profile else (
        "<p class='soft'>Where the time of a step goes is told by</p>"
        "<pre>python train.py --cfg_file CONFIG --data_dir DIR --profile 50</pre>"
    )  # fmt: skip
    return f"<h2>Time</h2><p>{text}</p>{went}{profiled}"


def settings(run: RunFiles, parent: tuple[str, dict] | None) -> str:
    """Return the config, and how it differs from its parent."""
    text = "<h2>Config</h2>"
    if parent is not None:
        name, resolved = parent
        different = config.diff(config.DEFAULTS | resolved, run.config)
        against = f"against {html.escape(name)}"
        lines = html.escape("\n".join(different))
        text += f"<p>{len(different)} lines differ {against}:</p><pre>{lines}</pre>" if different else (
            f"<p>No difference {against}.</p>"
        )  # fmt: skip
    whole = html.escape("\n".join(config.show(run.config)))
    return f"{text}<details><summary>all of it</summary><pre>{whole}</pre></details>"


def environment(run: RunFiles) -> str:
    """Return `env.json` as a table."""
    if not run.environment:
        return ""
    rows = []
    for key, value in run.environment.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {part}" for name, part in value.items())
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        rows.append((key, text if len(text) < 2000 else f"{text[:2000]} ..."))
    return f"<h2>Environment</h2>{table(['what', 'value'], rows)}"
