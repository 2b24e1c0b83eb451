"""The best, middle and worst samples of a run, drawn anew from its checkpoint."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 176  # pixels of a picture's long side in the report
COUNT = 4  # samples of each group


@dataclass(frozen=True)
class Example:
    """A row of pictures.

    Attributes:
        group: "best", "middle" or "worst".
        caption: which sample it is, and its score.
        cells: (name, data URL) of each picture.
        columns: of the grid they stand in, so that frames of a video stand below each other; 0 = as many as fit.
    """

    group: str
    caption: str
    cells: list[tuple[str, str]]
    columns: int = 0


def choose(images: Sequence[dict], metric: str, count: int = COUNT) -> dict[str, list[dict]]:
    """Return the samples with the highest, middle and lowest scores, none twice.

    Args:
        images: of `eval.json`; those the score is not defined for are left out.
        metric: name of the score.
        count: of each group.
    """
    ranked = sorted((row for row in images if row.get(metric) is not None), key=lambda row: -row[metric])
    count = min(count, max(1, len(ranked) // 3))
    start = (len(ranked) - count) // 2
    groups = {"best": ranked[:count], "middle": ranked[start : start + count], "worst": ranked[len(ranked) - count :]}
    taken: set[int] = set()
    for name, rows in groups.items():
        groups[name] = [row for row in rows if row["index"] not in taken]
        taken |= {row["index"] for row in rows}
    return groups


def url(picture: np.ndarray) -> str:
    """Return a picture (h w 3) uint8 as a data URL (JPEG), small enough for a page of many."""
    image = Image.fromarray(picture)
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
