"""The end of a run or an evaluation: scores as a table and `eval.json`, pictures as PNG grids.

A sample is an image, or a video: then each score is of the whole video, and pictures show three of its frames.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from ..picture import rows, save_grid
from .loop import Run, evaluate

NAMES = {"ari": "ARI", "ari_fg": "ARI_fg", "mbo": "mBO", "miou": "mIoU", "mbo_fg": "mBO_fg", "miou_fg": "mIoU_fg"}


class Recorder:
    """Collects, over one evaluation, a row of scores per sample and pictures of the first.

    Args:
        count: how many samples to draw.
        source_id: index in the dataset -> name of the sample at its source.

    Attributes:
        unit: what a sample is, "images" or "videos".
    """

    def __init__(self, count: int, source_id: Callable[[int], str]):
        self.count, self.source_id = count, source_id
        self.unit = "images"
        self.images: list[dict] = []
        self.pictures: list[list] = []

    def __call__(self, run: Run) -> None:
        """Take in the batch that was just scored."""
        indices = run.batch["index"].tolist()
        values = {name: (value.tolist(), valid.tolist()) for name, (value, valid) in run.scores.items()}
        for position, index in enumerate(indices):
            scores = {name: value[position] if valid[position] else None for name, (value, valid) in values.items()}
            self.images.append({"index": index, "id": self.source_id(index), **scores})
        if "video" in run.raw:
            self.unit = "videos"
        drawn = len(self.images) - len(indices)
        if self.count > drawn:
            self.pictures += self._draw(run, self.count - drawn)

    def _draw(self, run: Run, wanted: int) -> list[list]:
        """Return a row of pictures per image, or three per video, of the batch's first `wanted` samples."""

        def first(owner: dict, name: str) -> Tensor | None:
            if name not in owner:
                return None
            entry = owner[name][0] if isinstance(owner[name], list) else owner[name]  # of several scales the finest
            return entry[:wanted] if self.unit == "images" else some_frames(entry[:wanted])

        image = first(run.raw, "image" if self.unit == "images" else "video")  # uint8, as it came from the dataset
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


def evaluate_and_report(run: Run, folder: Path, viz: int, facts: dict) -> dict[str, float]:
    """Score the evaluation split, print a table, write `eval.json` and pictures; return the scores.

    Args:
        run: with its weights loaded.
        folder: where `eval.json` and `pictures/` go.
        viz: how many images or videos to draw.
        facts: further entries for `eval.json`, such as the checkpoint's hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(viz, run.source_id)
    evaluate(run, recorder)
    picture = folder / "pictures.png"
    if recorder.pictures:
        save_grid(picture, recorder.pictures)
    result = {
        **facts,
        "step": run.step,
        "num_images": len(recorder.images),
        "scores": run.result,
        "excluded": run.excluded,
        "config": run.cfg,
        "images": recorder.images,
    }
    temporary = folder / "eval.json.tmp"
    temporary.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    temporary.replace(folder / "eval.json")
    print(table(run.result, run.excluded, len(recorder.images), recorder.unit))
    print(f"scores of every {recorder.unit.removesuffix('s')}: {folder / 'eval.json'}")
    if recorder.pictures:
        shown = "image" if recorder.unit == "images" else "first, middle and last frame of each video"
        print(f"pictures: {picture} ({shown}, truth, prediction, slots)")
    return run.result


def table(scores: dict[str, float], excluded: dict[str, int], num_images: int, unit: str = "images") -> str:
    """Return scores as a text table, losses last; `excluded` images are those a score is not defined for."""
    lines = [f"{'score':<16}{'mean':>10}{unit:>10}{'excluded':>10}"]
    for name in sorted(scores, key=lambda name: (name not in NAMES, list(NAMES).index(name) if name in NAMES else 0)):
        out = excluded.get(name, 0)
        lines.append(f"{NAMES.get(name, name):<16}{scores[name]:>10.4f}{num_images - out:>10}{out:>10}")
    return "\n".join(lines)
