"""A validation pass that finds the backbone's features on disk against one that makes them: python -m benchmarks cache

DINOSAUR on COCO at full size, random weights, drawn pictures of COCO's size. The last line leaves out slot attention,
decoder and scores, which depend on weights that are trained and so are computed in every pass: of DINOSAUR's 46
GFLOP per picture the decoder has 35, so that no cache can make a whole pass five times as fast.
"""

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.conversion import make_raw
from benchmarks.table import Line, Options
from object_centric_bench import config, experiment
from object_centric_bench.datum import coco
from object_centric_bench.experiment import Settings
from object_centric_bench.learn.loop import evaluate
from object_centric_bench.learn.run import Run

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = REPOSITORY / "config-dinosaur" / "dinosaur_r-coco.py"
COUNT, BATCH = 48, 16
WANTED = 5.0  # times as fast, second pass to first


def build(settings: Settings, *overrides: str) -> Run:
    """Return a run of DINOSAUR, for evaluation only."""
    changes = ["pretrained=False", "dataset.num_workers=0", f"dataset.eval_batch_size={BATCH}", *overrides]
    return experiment.build_run(experiment.complete(config.load(CONFIG, changes)), settings, None)


def timed(run: Run) -> float:
    """Return the seconds of processor time of a validation pass."""
    start = time.process_time()
    evaluate(run)
    return time.process_time() - start


def inputs(run: Run) -> float:
    """Return the seconds of processor time of all batches with their features, computed or found."""
    frozen = run.network.backbone
    start = time.process_time()
    for batch in run.eval_batches():
        for transform in run.batch_transforms:
            batch = transform(batch, None)
        if "feature" not in batch:
            with run.accelerator.autocast():
                frozen(batch["image"])
    return time.process_time() - start


def lines(options: Options) -> list[Line]:
    """Measure passes in turns: without the cache, filling it, and from it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_raw(folder / "raw", COUNT, np.random.default_rng(0))
        coco.convert(folder / "raw", folder / "coco", split=("val",))
        shutil.copy(folder / "coco" / "val.lmdb", folder / "coco" / "train.lmdb")  # must be there, is not read
        settings = Settings(folder, folder / "save", device=options.device)
        taken: dict[str, list[float]] = {"without": [], "first": [], "second": [], "made": [], "found": []}
        results: dict[str, dict[str, float]] = {}
        for _ in range(options.rounds):
            shutil.rmtree(settings.cache_folder, ignore_errors=True)
            for kind, keep in (("without", False), ("first", True), ("second", True)):
                run = build(settings, f"cache_eval={keep}")
                taken[kind].append(timed(run))
                results[kind] = run.result
            for kind, keep in (("made", False), ("found", True)):
                taken[kind].append(inputs(build(settings, f"cache_eval={keep}")))
    require_equal(results)
    best = {kind: min(each) for kind, each in taken.items()}
    return [
        Line("validation, first pass, cache_eval", best["first"], "s", best["without"], "without the cache"),
        Line("validation, second pass, cache_eval", best["second"], "s", best["first"], "first pass", target=WANTED),
        Line("the same", best["second"], "s", best["second"] - best["found"], "slots, decoder and scores alone"),
        Line("its batches and features alone", best["found"], "s", best["made"], "read and computed", target=WANTED),
    ]


def require_equal(results: dict[str, dict[str, float]]) -> None:
    """Raise `AssertionError` if scores differ by more than rounding features to float16 explains."""
    for name, value in results["without"].items():
        for kind in ("first", "second"):
            if abs(results[kind][name] - value) > 5e-3 * max(1.0, abs(value)):
                raise AssertionError(f"{name} is {results[kind][name]} in the {kind} pass, {value} without the cache")
