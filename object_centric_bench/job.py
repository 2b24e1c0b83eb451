"""What `train.py` and `eval.py` do: find or make stage 1, train, score, report; errors of use as one message."""

import logging
import os
import shlex
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import config
from .datum.record import DataError
from .experiment import Settings, build_run, complete
from .files import file_hash
from .learn import checkpoint
from .learn.checkpoint import CheckpointError
from .learn.loop import Run, TrainingStopped, train
from .learn.report import evaluate_and_report
from .model.summary import summarize, table
from .model.weights import WeightsError
from .registry import ConfigError
from .restore import load_pretrained, load_weights, resume, write_description

DONE, USER_ERROR, INTERRUPTED = 0, 2, 130


def guarded(job: Callable[[], int]) -> int:
    """Run a job; turn what a user can get wrong into one message and exit code 2, Ctrl-C into 130."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger(__package__).setLevel(logging.INFO)
    try:
        return job()
    except (ConfigError, DataError, CheckpointError, WeightsError, TrainingStopped) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def train_command(options: Namespace, command: list[str]) -> int:
    """Train a config (stage 1 before it, if asked), score its best checkpoint and draw pictures.

    Args:
        options: of `train.py`; `demo` means to make the dataset and stage 1 where they are missing.
        command: the command line, to be repeated with `--resume` in messages.
    """
    cfg = complete(config.load(options.cfg_file, options.overrides))
    if options.demo:
        options.data_dir = options.data_dir or "data"
        options.with_pretrain = True
        Path(options.data_dir).mkdir(parents=True, exist_ok=True)
    settings = Settings(data_folder(options.data_dir), Path(options.save_dir), options.seed, options.device)
    make_shapes(settings.data_dir, cfg)
    features: dict = {}
    source = find_pretrained(cfg, settings, options, features)
    run = train_one(cfg, options.cfg_file, settings, source, options.resume, features, command)
    if run.metric:
        file = checkpoint.find(run.folder / "best")
        load_weights(run, file)
        print(f"\nscores of the best checkpoint, step {run.step}, on {cfg['dataset']['eval']['file']}:")
        report(run, file, run.folder / "eval", options.viz)
    return DONE


def data_folder(path: str | None) -> Path:
    """Return the folder of the datasets.

    Raises:
        ConfigError: not given, or not there.
    """
    if path is None:
        raise ConfigError("--data_dir is missing: the folder that holds the converted datasets (see convert.py --help)")
    if not Path(path).is_dir():
        raise ConfigError(f"--data_dir {path!r}: no such folder; make datasets with convert.py (see its --help)")
    return Path(path)


def report(run: Run, file: Path, out: Path, viz: int) -> None:
    """Score the loaded weights of a checkpoint file and write the results to a folder."""
    evaluate_and_report(run, out, viz, {"checkpoint": str(file), "checkpoint_sha256": file_hash(file)})


def eval_command(options: Namespace) -> int:
    """Score a checkpoint on the evaluation split; write `eval.json` and pictures."""
    file = checkpoint.find(options.ckpt_file)
    if options.cfg_file is None:
        _, info = checkpoint.read(file)
        if "config" not in info:
            raise ConfigError(f"--cfg_file is missing, and {file} does not hold its config")
        cfg = config.override(info["config"], options.overrides)
    else:
        cfg = config.load(options.cfg_file, options.overrides)
    settings = Settings(data_folder(options.data_dir), save_dir=Path(), seed=options.seed, device=options.device)
    cfg = complete(cfg) | {"cache_feature": False}
    cfg["model"] = without_pretrained(cfg["model"])  # the checkpoint has all weights
    logging.getLogger(f"{__package__}.model").setLevel(logging.ERROR)  # which would tell of random ones
    run = build_run(cfg, settings, folder=None)
    load_weights(run, file)
    report(run, file, Path(options.out) if options.out else file.parent / "eval", options.viz)
    return DONE


def without_pretrained(node: Any) -> Any:
    """Return a config whose parts do not look for pretrained weights."""
    if isinstance(node, list):
        return [without_pretrained(child) for child in node]
    if not isinstance(node, dict):
        return node
    known = {key: without_pretrained(child) for key, child in node.items()}
    return known | ({"pretrained": False, "weights": None} if known.get("pretrained") else {})


def make_shapes(data_dir: Path, cfg: dict) -> None:
    """Draw a demo dataset once, at the place where the config reads it; do nothing for other datasets."""
    from .datum import moving_shapes, shapes

    drawn = {"Shapes": shapes, "MovingShapes": moving_shapes}
    sections = [cfg["dataset"][split] for split in ("train", "eval")]
    wanted = {((data_dir / each["file"]).parent, each["type"]) for each in sections if each["type"] in drawn}
    for folder, kind in sorted(wanted):
        if not (folder / "val.lmdb").exists() or not (folder / "train.lmdb").exists():
            print(f"making the demo dataset in {folder}")
            drawn[kind].convert(folder, workers=os.cpu_count() or 1, force=True)


def find_pretrained(cfg: dict, settings: Settings, options: Namespace, features: dict) -> Path | None:
    """Return the checkpoint that training starts from, if the config or the user names one.

    That is `--ckpt_file`, otherwise the best checkpoint of the stage-1 config under `--save_dir` for the same seed;
    `--with_pretrain` makes it where it is missing.

    Raises:
        ConfigError: stage 1 is missing; the text holds the command that makes it.
    """
    if options.ckpt_file is not None:
        return checkpoint.find(options.ckpt_file)
    if cfg["pretrain"] is None:
        return None
    file = Path(options.cfg_file).parent / cfg["pretrain"]["config"]
    knobs = [f"{key}={value!r}" for key, value in cfg["pretrain"].get("knobs", {}).items()]
    folder = settings.folder(file)
    again = ["python", "train.py", "--cfg_file", str(file), "--data_dir", str(settings.data_dir)]
    again += ["--save_dir", str(settings.save_dir), "--seed", str(settings.seed), *knobs]
    missing = unfinished(folder)
    if missing is None:
        require_same_pictures(cfg, folder, again)
        return checkpoint.find(folder / "best")
    if not options.with_pretrain:
        command = shlex.join([*again, "--resume"] if (folder / "last").is_dir() else again)
        raise ConfigError(
            f"pretrain: {options.cfg_file} starts from stage 1, but {missing}. Make it with\n  {command}\n"
            "or add --with_pretrain to do so first, or give a checkpoint by --ckpt_file"
        )
    print(f"stage 1: {file}")
    stage1 = complete(config.load(file, knobs))
    train_one(stage1, str(file), settings, None, True, features, again)
    print(f"stage 2: {options.cfg_file}")
    return checkpoint.find(folder / "best")


def require_same_pictures(cfg: dict, folder: Path, command: list[str]) -> None:
    """Raise `ConfigError` if stage 1 was trained on pictures of another size than the second stage's."""
    _, info = checkpoint.read(checkpoint.find(folder / "best"))
    if "config" not in info:  # the authors' own
        return
    sizes = [
        next((t["size"] for t in each["dataset"]["eval"]["transforms"] if t["type"] == "Resize"), None)
        for each in (info["config"], cfg)
    ]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"pretrain: stage 1 in {folder} was trained on pictures of {sizes[0]} pixels, this config has {sizes[1]}. "
            f"Move that folder away and run\n  {shlex.join(command)}\nor give a checkpoint by --ckpt_file"
        )


def unfinished(folder: Path) -> str | None:
    """Return in words what a run lacks to be built upon, None if it ran to its end."""
    if not (folder / "best").is_dir():
        return f"{folder / 'best'} does not exist"
    if not (folder / "last").is_dir():  # a best checkpoint that was put here by hand
        return None
    _, info = checkpoint.read(checkpoint.find(folder / "last"))
    step, total = info["step"], info["config"]["total_steps"]
    return None if step >= total else f"{folder} ended at step {step} of {total}"


def train_one(
    cfg: dict, cfg_file: str, settings: Settings, source: Path | None, resumed: bool, features: dict, command: list[str]
) -> Run:
    """Build and train one run; return it finished.

    Args:
        source: checkpoint to start from, or None.
        resumed: continue from `last` where there is one.
        features: kept between the runs of this process, see `experiment.cached`.
        command: what to tell the user to repeat when interrupted.

    Raises:
        KeyboardInterrupt: stopped by Ctrl-C; `last` was saved.
    """
    folder = settings.folder(cfg_file)
    run = build_run(cfg, settings, folder, features)
    if not (resumed and folder.exists() and resume(run)):
        if source is not None:
            load_pretrained(run, source)
        set_aside(folder)  # only now: nothing is moved for a run that cannot start
        write_description(run, cfg_file)
    print(table(summarize(run.accelerator.unwrap_model(run.model))))
    with stopping_at_interrupt(run):
        train(run)
    if run.stop:
        again = shlex.join(command if "--resume" in command else [*command, "--resume"])
        print(f"\ninterrupted at step {run.step}; saved {folder / 'last'}. To continue:\n  {again}", file=sys.stderr)
        raise KeyboardInterrupt
    return run


def set_aside(folder: Path) -> None:
    """Rename the folder of an earlier run, so that nothing in it is lost; an empty or missing folder is left alone."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    number = 1
    while (other := folder.with_name(f"{folder.name}-earlier-{number}")).exists():
        number += 1
    folder.rename(other)
    print(f"an earlier run was moved to {other} (use --resume to continue one)")


@contextmanager
def stopping_at_interrupt(run: Run) -> Iterator[None]:
    """Let the first Ctrl-C end training after the present step; the second ends it at once."""

    def stop(number: int, frame: object) -> None:
        if run.stop:
            raise KeyboardInterrupt
        run.stop = True
        print("\nstopping after this step (Ctrl-C again: at once, without saving)", file=sys.stderr)

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
