"""Compare the time of scoring under all protocols in one pass with that of a pass for each protocol.

Run as `python -m benchmarks protocol`; one thread. Maps are made once for all that compare them in one size, tables
once for all that count the same pixels; what is left is the work of each score.
"""

import time

import torch
from torch import Tensor

from benchmarks.metric import label_maps
from benchmarks.table import Line, Options, seconds
from object_centric_bench.learn.protocol import PROTOCOLS, Plan, with_classes
from object_centric_bench.learn.scoring import Scoring

SLOTS, OBJECTS = 7, 9


def sample(shape: tuple[int, ...], generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a batch with labels (b h w) or (b t h w) and the two kinds of masks (b s 16 16) or (b t s 16 16)."""
    *samples, size, _ = shape
    count = torch.Size(samples).numel()
    truth = label_maps(count, size, OBJECTS, size // 8, generator).view(shape)
    masks = [torch.rand(*samples, SLOTS, 16, 16, generator=generator) for _ in range(2)]
    return {"segment": truth, "semantic": truth}, dict(zip(("attention", "mask"), masks, strict=True))


def plans(names: list[str], video: bool) -> list[Plan]:
    """Return protocols on labels that have the size they want."""
    chosen = [Plan(PROTOCOLS[name], semantic="semantic") for name in names]
    return [Plan(p.protocol, semantic="semantic", scores=with_classes(p.protocol.scores, True, video)) for p in chosen]


def lines(options: Options) -> list[Line]:
    """Time images and videos; the floor is the sum of what each protocol takes by itself."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    found = []
    for what, shape, video in (
        ("32 images of 256x256", (32, 256, 256), False),
        ("4 videos of 24 frames of 128x128", (4, 24, 128, 128), True),
    ):
        batch, output = (
            {name: each.to(options.device) for name, each in part.items()} for part in sample(shape, generator)
        )
        names = [name for name, rules in PROTOCOLS.items() if video or not rules.of_videos()]
        passes = [Scoring(plans(each, video), [], []) for each in ([*names], *([name] for name in names))]

        def run(scoring: Scoring, batch: dict = batch, output: dict = output) -> None:
            for value, _ in scoring(batch, output).values():
                value.cpu()

        together, *alone = seconds(
            [lambda scoring=scoring: run(scoring) for scoring in passes], options.rounds, time.thread_time
        )
        vvo = alone[names.index("vvo")]
        text = f"{len(names)} protocols, both masks, {what}, {options.device}"
        found.append(Line(text, 1e3 * together, "ms", 1e3 * sum(alone), "plain: a pass for each"))
        found.append(Line(f"vvo alone, both masks, {what}, {options.device}", 1e3 * vvo, "ms"))
        slowest = max(range(len(names)), key=alone.__getitem__)
        found.append(Line(f"the slowest, {names[slowest]}, {what}, {options.device}", 1e3 * alone[slowest], "ms"))
    return found
