"""The end of a run or an evaluation: scores as tables and `eval.json`, pictures as PNG grids.

A sample is an image, or a video: then pictures show three of its frames. Scores under protocols stand beside those of
the config, each with its card.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..console import say
from ..files import replacing
from ..picture import rows, save_grid
from .gather import Processes
from .loop import evaluate
from .protocol import Plan
from .protocol_report import protocol_results, protocol_table, side_by_side
from .run import Run
from .scoring import CONFIG, Scoring, nested

NAMES = {"ari": "ARI", "ari_fg": "ARI_fg", "mbo": "mBO", "miou": "mIoU", "mbo_fg": "mBO_fg", "miou_fg": "mIoU_fg"}


class Recorder:
    """Collects, over one evaluation, a row of scores per sample and pictures of the first.

    Args:
        count: how many samples to draw.
        source_id: index in the dataset -> name of the sample at its source.
        protocols: names of those whose scores are among the run's.

    Attributes:
        unit: what a sample is, "images" or "videos".
    """

    def __init__(self, count: int, source_id: Callable[[int], str], protocols: Iterable[str] = ()):
        self.count, self.source_id, self.protocols = count, source_id, tuple(protocols)
        self.unit = "images"
        self.images: list[dict] = []
        self.pictures: list[list] = []
        self.drawn: list[int] = []  # the sample that a row of pictures is of

    def __call__(self, run: Run) -> None:
        """Take in the batch that was just scored."""
        indices = run.batch["index"].tolist()
        values = {name: (value.tolist(), valid.tolist()) for name, (value, valid) in run.scores.items()}
        for position, index in enumerate(indices):
            scores = {name: value[position] if valid[position] else None for name, (value, valid) in values.items()}
            own, under = nested(scores, self.protocols)
            row = {"index": index, "id": self.source_id(index), **own}
            self.images.append(row | ({"protocols": under} if under else {}))
        if "video" in run.inputs and "video" in run.cfg["dataset"]["eval"]["keys"]:
            self.unit = "videos"
        drawn = len(self.images) - len(indices)
        if self.count > drawn:
            made = self._draw(run, self.count - drawn)
            self.pictures += made
            each = len(made) // len(indices[: self.count - drawn])  # three of a video
            self.drawn += [index for index in indices[: self.count - drawn] for _ in range(each)]

    def gather(self, processes: Processes) -> None:
        """Bring together what several processes have collected, in the order of the dataset."""
        if processes.count == 1:
            return
        parts = processes.gather((self.images, list(zip(self.drawn, self.pictures, strict=True)), self.unit))
        self.images = sorted((row for images, _, _ in parts for row in images), key=lambda row: row["index"])
        drawn = sorted((each for _, pictures, _ in parts for each in pictures), key=lambda each: each[0])
        wanted = {row["index"] for row in self.images[: self.count]}
        self.pictures = [row for index, row in drawn if index in wanted]
        self.unit = parts[0][2]  # a process may have had no batch, never the first

    def _draw(self, run: Run, wanted: int) -> list[list]:
        """Return a row of pictures per image, or three per video, of the batch's first `wanted` samples."""

        def first(owner: dict, name: str) -> Tensor | None:
            if name not in owner:
                return None
            entry = owner[name][0] if isinstance(owner[name], list) else owner[name]  # of several scales the finest
            return entry[:wanted] if self.unit == "images" else some_frames(entry[:wanted])

        raw, name = run.raw, "image" if self.unit == "images" else "video"
        if name not in raw:  # batches come without pictures where features are cached
            raw = {name: torch.stack([run.picture(index) for index in raw["index"][:wanted].tolist()])}
        image = first(raw, name)  # uint8, as it came from the dataset
        if image is None:
            raise LookupError(f"the batch has no {name!r} to draw")
        reconstruction = first(run.output, "reconstruction")
        grid = rows(
            image,
            target=first(run.batch, "segment"),
            segment=first(run.output, "segment"),
            mask=first(run.output, "segment_mask"),
        )
        if reconstruction is not None and reconstruction.shape[1] == 3:
            resized = F.interpolate(reconstruction.float(), size=image.shape[-2:], mode="bilinear")
            for transform in reversed(run.batch_transforms):
                resized = transform.invert(resized)
            for row, drawn in zip(grid, rows(resized, None, None, None), strict=True):
                row += drawn
        return grid


def some_frames(entry: Tensor) -> Tensor:
    """Return the first, middle and last frames (3b ...) of videos (b t ...), fewer of shorter ones."""
    last = entry.shape[1] - 1
    return entry[:, sorted({0, last // 2, last})].flatten(0, 1)


def evaluate_and_report(run: Run, folder: Path, viz: int, facts: dict, plans: Sequence[Plan] = ()) -> dict[str, float]:
    """Score the evaluation split, print tables, write `eval.json` and pictures; return the config's scores.

    Args:
        run: with its weights loaded.
        folder: where `eval.json` and `pictures/` go.
        viz: how many images or videos to draw.
        facts: further entries for `eval.json`, such as the checkpoint's hash.
        plans: protocols to score by, in the same pass.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [plan.protocol.name for plan in plans]
    recorder = Recorder(viz, run.source_id, names)
    metric, scoring = run.metric, Scoring(plans, run.metric, run.callbacks)
    run.metric = [scoring]
    try:
        evaluate(run, recorder)
    finally:
        run.metric = metric
    recorder.gather(run.processes)
    if not run.processes.main:
        return run.result
    under = protocol_results(run.result, run.excluded, scoring)
    run.result, run.excluded = nested(run.result, names)[0], nested(run.excluded, names)[0]
    picture = folder / "pictures.png"
    if recorder.pictures:
        save_grid(picture, recorder.pictures)
    result = {
        **facts,
        "step": run.step,
        "num_images": len(recorder.images),
        "scores": run.result,
        "excluded": run.excluded,
        "card": scoring.cards().get(CONFIG),
        "protocols": under,
        "config": run.cfg,
        "images": recorder.images,
    }
    with replacing(folder / "eval.json") as file:
        file.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    print(table(run.result, run.excluded, len(recorder.images), recorder.unit))
    for each in under.values():
        print(f"\n{protocol_table(each, len(recorder.images), recorder.unit)}")
    if len(under) > 1:
        print(f"\nmasks to quote, under all protocols\n{side_by_side(under)}")
    say(f"scores of every {recorder.unit.removesuffix('s')}: {folder / 'eval.json'}")
    if recorder.pictures:
        shown = "image" if recorder.unit == "images" else "first, middle and last frame of each video"
        say(f"pictures: {picture} ({shown}, truth, prediction, slots)")
    return run.result


def table(scores: dict[str, float], excluded: dict[str, int], num_images: int, unit: str = "images") -> str:
    """Return scores as a text table, losses last; `excluded` images are those a score is not defined for."""
    lines = [f"{'score':<16}{'mean':>10}{unit:>10}{'excluded':>10}"]
    for name in sorted(scores, key=lambda name: (name not in NAMES, list(NAMES).index(name) if name in NAMES else 0)):
        out = excluded.get(name, 0)
        lines.append(f"{NAMES.get(name, name):<16}{scores[name]:>10.4f}{num_images - out:>10}{out:>10}")
    return "\n".join(lines)
