"""`eval.py --report`: the report of a run folder, with pictures drawn anew from its checkpoint."""

import logging
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import config
from ..console import bar, say
from ..datum.loader import collate
from ..datum.record import DataError
from ..experiment import Settings, build_run, complete
from ..files import replacing
from ..learn import checkpoint
from ..learn.checkpoint import CheckpointError
from ..learn.run import Run, forward, seed_noise
from ..picture import rows
from ..registry import ConfigError, build
from ..restore import load_weights, without_pretrained
from .examples import Example, choose, url
from .files import RunFiles, read
from .page import HEADLINES, page

FRAMES = 6  # of a video, evenly apart
METRIC = "mbo"  # ranks samples, where it was scored


def report_command(options: Namespace) -> int:
    """Write the report that `eval.py --report RUN_DIR` asks for; return the exit code.

    Raises:
        ConfigError: no run folder.
    """
    data_dir = None if options.data_dir is None else Path(options.data_dir)
    write_report(Path(options.report), data_dir, options.device, options.parent)
    return 0


def write_report(folder: Path, data_dir: Path | None = None, device: str = "auto", parent: str | None = None) -> Path:
    """Write `report.html` into a run folder; return its path.

    Args:
        folder: of the run.
        data_dir: folder of the datasets, None = where the run found them. Without them there are no pictures, and the
            report says so.
        device: to draw pictures on.
        parent: config file or run folder to show the difference to; None = the run's own config file as it is now,
            without overrides.

    Raises:
        ConfigError: no run folder, a damaged file in it, or the parent cannot be read.
    """
    run = read(folder)
    examples: list[Example] = []
    why_none = "the run was not scored, so no picture is the best or the worst"
    ranked = choose(run.result.get("images", []), METRIC)
    if any(ranked.values()):
        where = data_dir or Path(run.environment.get("data_dir", "data"))
        try:
            examples = draw(run, ranked, Settings(where, save_dir=folder.parent.parent, device=device))
        except (ConfigError, DataError, CheckpointError) as error:
            why_none = f"pictures could not be drawn: {error}"
            logging.getLogger(__name__).warning("report without pictures: %s", error)
    with replacing(folder / "report.html") as file:
        file.write_text(page(run, examples, why_none, parent_of(run, parent)))
    say(f"report: {folder / 'report.html'}")
    return folder / "report.html"


def parent_of(run: RunFiles, parent: str | None) -> tuple[str, dict] | None:
    """Return name and resolved config of what a run is compared to, None if its own config file is gone.

    Raises:
        ConfigError: the parent that the user names cannot be read.
    """
    if parent is not None:
        path = Path(parent)
        return parent, read(path).config if path.is_dir() else config.load(path)
    own = run.environment.get("config")
    if own is None or not Path(own).is_file():
        return None
    return f"{own} as it is now", config.load(own)


def draw(files: RunFiles, ranked: dict[str, list[dict]], settings: Settings) -> list[Example]:
    """Return pictures of samples: what the best checkpoint makes of them.

    Args:
        files: of the run.
        ranked: group -> rows of `eval.json`.
        settings: where the data is.

    Raises:
        ConfigError, DataError, CheckpointError: checkpoint or data are gone, or do not fit.
    """
    file = checkpoint.find(files.folder / "best")
    cfg = complete(files.config) | {"cache_feature": False, "cache_eval": False, "compile": False}
    cfg["model"] = without_pretrained(cfg["model"])
    logging.getLogger("object_centric_bench.model").setLevel(logging.ERROR)  # which would tell of random weights
    with bar(desc="report", total=sum(map(len, ranked.values())), unit="sample", leave=False) as progress:
        run = build_run(cfg, settings, folder=None, plans=[])
        load_weights(run, file)
        dataset = build(cfg["dataset"]["eval"], "dataset.eval", data_dir=settings.data_dir)
        examples = []
        for group, chosen in ranked.items():
            size = cfg["dataset"]["eval_batch_size"]
            for start in range(0, len(chosen), size):
                part = chosen[start : start + size]
                samples = [dataset.sample(row["index"], np.random.default_rng(0)) for row in part]
                batch = collate(samples)
                if not isinstance(batch, dict):
                    raise DataError(f"{cfg['dataset']['eval']['file']}: {batch.message}")
                examples += draw_batch(run, group, part, batch)
                progress.update(len(part))
    return examples


@torch.no_grad()
def draw_batch(run: Run, group: str, chosen: Sequence[dict], batch: dict) -> list[Example]:
    """Return the pictures of a batch of samples, an `Example` each: picture, truth, found, what each slot holds."""
    run.network.eval()
    run.measuring = True  # so that masks become segments
    seed_noise(run.device, 0)
    forward(run, batch)
    video = "video" in batch
    entries = [batch["video" if video else "image"], run.batch.get("segment")]
    entries += [run.output.get("segment"), run.output.get("segment_mask")]
    examples = []
    for position, row in enumerate(chosen):
        own: list[Any] = [None if entry is None else entry[position] for entry in entries]
        if video:
            picks = np.unique(np.linspace(0, len(own[0]) - 1, FRAMES).round().astype(int)).tolist()
            target, segment = (None if entry is None else entry[picks] for entry in own[1:3])
            frames = rows(own[0][picks], target, segment, None)
            titles = ["video", *(["truth"] if own[1] is not None else []), "found"]
            cells = [
                (f"{title} {frame}", url(cell))
                for column, title in enumerate(titles)
                for frame, cell in zip(picks, (pictures[column] for pictures in frames), strict=True)
            ]
        else:
            target, segment, mask = (None if entry is None else entry[None] for entry in own[1:])
            (drawn,) = rows(own[0][None], target, segment, mask)
            titles = ["picture", *(["truth"] if own[1] is not None else []), "found"]
            titles += [f"slot {slot}" for slot in range(len(drawn) - len(titles))]
            cells = [(title, url(cell)) for title, cell in zip(titles, drawn, strict=True)]
        scores = ", ".join(f"{title} {100 * row[m]:.1f}" for m, title in HEADLINES.items() if row.get(m) is not None)
        examples.append(Example(group, f"{row['id']}: {scores}", cells, len(picks) if video else 0))
    return examples
