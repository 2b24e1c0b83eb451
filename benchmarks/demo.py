"""Train and score the demo configs: python -m benchmarks.demo [CONFIG ...] [--data_dir DIR] [--save_dir DIR] [--seed N]

Prints a Markdown table: steps, minutes of train.py (its evaluations included, first stages excluded), and scores before
and after training, both by train.py itself: before is a run of the same seed and first stage whose rate is zero. The
last row is what place alone gives: the scenes divided into cells, as many as the demos have slots, alike in all of
them. Scores that tell of objects are above it, mBO and ARI first of all.
A CONFIG is a name in config-demo, such as vvo_tfd-shapes. First stages are trained before those that need them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.cluster.vq import kmeans2

from object_centric_bench import config

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "config-demo"
SCORES = {"ari": "ARI", "ari_fg": "ARI_fg", "mbo": "mBO"}
UNTRAINED = ("total_steps=1", "eval_every=1", "optimizer.lr=0.0")  # one step that changes nothing, then scores
CELLS, SIDE = 7, 128  # of the partition by place, and of the demo's pictures, pixels
HEAD = ("config", "steps", "minutes", "score", "untrained", "trained", "difference")


class Paths(NamedTuple):
    """Where data and runs lie, and the seed of all runs."""

    data: Path
    save: Path
    seed: int

    def run(self, name: str) -> Path:
        """Return the folder that train.py writes a config's run to."""
        return self.save / name / str(self.seed)


class Result(NamedTuple):
    """What training a config gave: steps, minutes, and scores by name, None for a first stage."""

    name: str
    steps: int
    minutes: float
    before: dict[str, float] | None = None
    after: dict[str, float] | None = None


def names() -> list[str]:
    """Return the configs that find objects, those that others start from first."""
    found = [file.stem for file in sorted(FOLDER.glob("*.py")) if not file.stem.startswith("_")]
    stages = {stage for name in found if (stage := first_stage(name))}
    return sorted((name for name in found if scored(name)), key=lambda name: name not in stages)


def load(name: str) -> dict:
    """Return a demo's config."""
    return config.load(FOLDER / f"{name}.py")


def scored(name: str) -> bool:
    """Tell whether a config finds objects, which first stages of tokenizers do not."""
    return bool(load(name).get("metric"))


def first_stage(name: str) -> str | None:
    """Return the name of the config that another one starts from."""
    stage = load(name).get("pretrain")
    return Path(stage["config"]).stem if stage else None


def train(name: str, paths: Paths, *options: str) -> float:
    """Run train.py; return its minutes.

    Raises:
        RuntimeError: it failed; the text is its last lines.
    """
    command = ["train.py", "--cfg_file", FOLDER / f"{name}.py", "--data_dir", paths.data, "--save_dir", paths.save]
    command += ["--seed", paths.seed, "--viz", 0]
    if stage := first_stage(name):
        command += ["--ckpt_file", paths.run(stage) / "best"]
    start = time.perf_counter()
    full = [sys.executable, *map(str, command), *options]
    done = subprocess.run(full, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"train.py {name} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    return (time.perf_counter() - start) / 60


def measure(name: str, paths: Paths, done: dict[str, Result]) -> Result:
    """Train a config, and before it what it starts from; results are kept in `done`.

    Args:
        name: of the config.
        paths: of data and runs.
        done: what was trained already, by name.

    Raises:
        RuntimeError: a run failed.
    """
    if name in done:
        return done[name]
    if stage := first_stage(name):
        measure(stage, paths, done)
    before = None
    paths.data.mkdir(parents=True, exist_ok=True)
    if scored(name):
        with tempfile.TemporaryDirectory() as folder:
            # Beside the other runs, but the first stage is that of the run to come.
            aside = paths._replace(save=Path(folder))
            if stage:
                aside.run(stage).parent.mkdir(parents=True)
                aside.run(stage).symlink_to(paths.run(stage).resolve(), target_is_directory=True)
            train(name, aside, *UNTRAINED)
            before = scores(aside.run(name))
    minutes = train(name, paths)
    after = scores(paths.run(name)) if before is not None else None
    done[name] = Result(name, load(name)["total_steps"], minutes, before, after)
    return done[name]


def scores(run: Path) -> dict[str, float]:
    """Return the means over the evaluation split that train.py wrote."""
    means = json.loads((run / "eval" / "eval.json").read_text())["scores"]
    return {key: means[key] for key in SCORES}


def place_alone(data: Path) -> dict[str, float]:
    """Return the scores of one partition, by k-means of the pixels' places, for all held-out scenes."""
    from object_centric_bench.datum.shapes import Shapes
    from object_centric_bench.learn.metric import Segmentation

    scenes = Shapes("shapes/val.lmdb", ["segment"], data_dir=str(data))
    places = torch.cartesian_prod(torch.arange(float(SIDE)), torch.arange(float(SIDE)))
    _, cells = kmeans2(places.numpy(), CELLS, minit="++", seed=0)
    truth = torch.stack([scenes.sample(index, np.random.default_rng(0))["segment"] for index in range(len(scenes))])
    cells = torch.from_numpy(cells).view(SIDE, SIDE).expand_as(truth)
    found = Segmentation("output.segment", "batch.segment")({"segment": truth}, {"segment": cells})
    return {key: float(value[valid].mean()) for key, (value, valid) in found.items() if key in SCORES}


def rows(result: Result) -> list[str]:
    """Return a result as rows of the Markdown table."""
    first = [f"`{result.name}`", f"{result.steps:,}", f"{result.minutes:.1f}"]
    if result.before is None or result.after is None:
        return [line([*first, "", "", "", ""])]
    found = []
    for key, title in SCORES.items():
        before, after = result.before[key], result.after[key]
        found.append(line([*first, title, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"]))
        first = ["", "", ""]
    return found


def line(texts: list[str] | tuple[str, ...]) -> str:
    """Return one row of a Markdown table."""
    return f"| {' | '.join(texts)} |"


def main() -> int:
    """Print the table, row by row as runs end; return 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__.partition("\n")[0])
    known = names()
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help=f"of {', '.join(known)} [all]")
    parser.add_argument("--data_dir", type=Path, help="folder of the drawn datasets [made anew]")
    parser.add_argument("--save_dir", type=Path, help="folder of the runs [removed at the end]")
    parser.add_argument("--seed", type=int, default=42, help="of all runs [42]")
    options = parser.parse_args()
    if unknown := [name for name in options.configs if name not in known]:
        parser.error(f"no demo {', '.join(unknown)}; there are {', '.join(known)}")
    with tempfile.TemporaryDirectory() as folder:
        data, save = options.data_dir or Path(folder) / "data", options.save_dir or Path(folder) / "save"
        paths = Paths(data.resolve(), save.resolve(), options.seed)
        done: dict[str, Result] = {}
        print(line(HEAD), line(["---"] * len(HEAD)), sep="\n", flush=True)
        for name in options.configs or known:
            try:
                print(*rows(measure(name, paths, done)), sep="\n", flush=True)
            except RuntimeError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
        if (paths.data / "shapes" / "val.lmdb").exists():
            first = ["place alone", "", ""]
            for key, value in place_alone(paths.data).items():
                print(line([*first, SCORES[key], "", f"{value:.3f}", ""]))
                first = ["", "", ""]
    return 0


if __name__ == "__main__":
    sys.exit(main())
