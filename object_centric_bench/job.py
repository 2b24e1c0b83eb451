"""What `train.py` and `eval.py` do: find or make stage 1, train, score, report; errors of use as one message."""

import logging
import os
import shlex
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch.distributed

from . import config
from .console import say
from .datum.record import DataError
from .engine import keep_freed_memory
from .evaluation import choose
from .experiment import Settings, build_run, complete
from .files import DISK, file_hash
from .interruption import Interruption, Resumable, end_undisturbed
from .learn import checkpoint
from .learn.checkpoint import CheckpointError
from .learn.protocol import Plan
from .learn.report import evaluate_and_report
from .learn.run import Run, TrainingStopped
from .model.weights import WeightsError
from .profiling import profile_run
from .registry import ConfigError
from .reproduce import reproduce
from .restore import config_within, load_weights, without_pretrained
from .run_report.draw import write_report
from .training import Resuming, train_one

log = logging.getLogger(__name__)

DONE, DIFFERENT, USER_ERROR, RESUMABLE, INTERRUPTED = 0, 1, 2, 3, 130
GRACE = 5.0  # seconds
DRAWN = ("Shapes", "MovingShapes")  # datasets that this code draws itself


def guarded(job: Callable[[], int], level: int = logging.INFO) -> int:
    """Run a job; return the exit code.

    What a user can get wrong is one message and 2, work that was saved and can go on is 3, Ctrl-C that saved nothing is
    130. Of several processes only the main one talks, but for errors.

    Args:
        job: what to run.
        level: of logging: WARNING leaves out all but warnings, errors and results; DEBUG adds details, and where in the
            code an error of use was found.
    """
    rank = os.environ.get("RANK", "0")
    talks = rank == "0"
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger(__package__).setLevel(level if talks else logging.ERROR)
    log.debug("Python %s, PyTorch %s, process %s", sys.version.partition(" ")[0], torch.__version__, rank)
    if not talks:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, until the end
    code = DONE
    try:
        code = job()
    except Resumable as interrupted:
        end_undisturbed()
        if talks:
            print(f"\ninterrupted: {interrupted}. The same command continues.", file=sys.stderr)
        code = RESUMABLE
    except (ConfigError, DataError, CheckpointError, WeightsError, TrainingStopped) as error:
        if level <= logging.DEBUG:
            traceback.print_exc()
        print("error:" if talks else f"error in process {rank}:", error, file=sys.stderr)
        if talks and os.environ.get("WORLD_SIZE", "1") != "1":
            time.sleep(GRACE)  # this process holds the store that the others may be waiting at, to find the same error
        return USER_ERROR
    except OSError as error:
        if error.errno not in DISK:
            raise
        saved = "Nothing that was saved before is lost: make room or give another folder, then the same command again"
        print(f"error: {error}. {saved}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return code


def train_command(options: Namespace) -> int:
    """Train a config (stage 1 before it, if asked), score its best checkpoint and draw pictures.

    Args:
        options: of `train.py`; `demo` means to make the dataset and stage 1 where they are missing.
    """
    keep_freed_memory(options.device)
    cfg = complete(config.load(options.cfg_file, options.overrides))
    if options.demo:
        options.data_dir = options.data_dir or "data"
        options.with_pretrain = True
    folders = dict(data_dir=data_folder(options.data_dir, cfg), save_dir=Path(options.save_dir))
    settings = Settings(**folders, seed=options.seed, device=options.device, cache_dir=cache_folder(options))
    with Interruption(options.time_limit) as interruption:
        make_shapes(settings.data_dir, cfg)
        if options.profile is not None:
            profile_run(cfg, options.cfg_file, settings, options.profile)
            return DONE
        source = find_pretrained(cfg, settings, options, interruption)
        resuming = Resuming(options.resume, options.resume_anyway)
        run = train_one(cfg, options.cfg_file, settings, source, resuming, interruption)
        if run.metric:
            folder = settings.folder(options.cfg_file)
            file = checkpoint.find(folder / "best")
            load_weights(run, file)
            print(f"\nscores of the best checkpoint, step {run.step}, on {cfg['dataset']['eval']['file']}:")
            report(run, file, folder / "eval", options.viz, choose(cfg))
        run.processes.wait()  # until the main one has written what the report reads
        # in all of them: it builds the model anew, which they can only do together
        write_report(settings.folder(options.cfg_file), settings.data_dir, settings.device)
    return DONE


def reproduce_command(options: Namespace) -> int:
    """Take the first steps of a run again, say whether its losses come back; return 1 if one differs."""
    data_dir = None if options.data_dir is None else Path(options.data_dir)
    outcome = reproduce(Path(options.reproduce), options.steps, data_dir, options.device)
    print("\n".join(outcome.lines()))
    return DONE if outcome.first is None else DIFFERENT


def data_folder(path: str | None, cfg: dict | None = None) -> Path:
    """Return the folder of the datasets; it is made for a config whose dataset this code draws.

    Raises:
        ConfigError: not given, or not there.
    """
    if path is None:
        raise ConfigError("--data_dir is missing: the folder that holds the converted datasets (see convert.py --help)")
    if cfg is not None and cfg["dataset"]["train"]["type"] in DRAWN:
        Path(path).mkdir(parents=True, exist_ok=True)
    if not Path(path).is_dir():
        raise ConfigError(f"--data_dir {path!r}: no such folder; make datasets with convert.py (see its --help)")
    return Path(path)


def cache_folder(options: Namespace) -> Path | None:
    """Return the folder that `--cache_dir` names, None for the default."""
    return None if options.cache_dir is None else Path(options.cache_dir)


def report(run: Run, file: Path, out: Path, viz: int, plans: list[Plan]) -> None:
    """Score the loaded weights of a checkpoint file under protocols and write the results to a folder."""
    evaluate_and_report(run, out, viz, {"checkpoint": str(file), "checkpoint_sha256": file_hash(file)}, plans)


def eval_command(options: Namespace) -> int:
    """Score a checkpoint on the evaluation split; write `eval.json` and pictures."""
    keep_freed_memory(options.device)
    file = checkpoint.find(options.ckpt_file)
    if options.cfg_file is None:
        tensors, info = checkpoint.read(file)
        kept = config_within(file, tensors, info)
        cfg = config.override(config.DEFAULTS | kept, options.overrides)  # of an earlier version, perhaps
    else:
        cfg = config.load(options.cfg_file, options.overrides)
    settings = Settings(
        data_folder(options.data_dir),
        Path("save"),
        seed=options.seed,
        device=options.device,
        cache_dir=cache_folder(options),
    )
    cfg = complete(cfg) | {"cache_feature": False}
    cfg["model"] = without_pretrained(cfg["model"])  # the checkpoint has all weights
    logging.getLogger(f"{__package__}.model").setLevel(logging.ERROR)  # which would tell of random ones
    plans = choose(cfg, options.protocol)
    run = build_run(cfg, settings, folder=None, plans=plans)
    load_weights(run, file)
    report(run, file, Path(options.out) if options.out else file.parent / "eval", options.viz, plans)
    return DONE


def make_shapes(data_dir: Path, cfg: dict) -> None:
    """Draw a demo dataset once, at the place where the config reads it; do nothing for other datasets."""
    from .datum import moving_shapes, shapes

    drawn = dict(zip(DRAWN, (shapes, moving_shapes), strict=True))
    sections = [cfg["dataset"][split] for split in ("train", "eval")]
    wanted = {((data_dir / each["file"]).parent, each["type"]) for each in sections if each["type"] in drawn}
    for folder, kind in sorted(wanted):
        files = [folder / "train.lmdb", folder / "val.lmdb"]
        while os.environ.get("LOCAL_RANK", "0") != "0" and not all(file.exists() for file in files):
            time.sleep(1.0)  # the machine's first process makes it
        if not all(file.exists() for file in files):
            say(f"making the demo dataset in {folder}")
            drawn[kind].convert(folder, workers=os.cpu_count() or 1, force=True)


def find_pretrained(cfg: dict, settings: Settings, options: Namespace, interruption: Interruption) -> Path | None:
    """Return the checkpoint that training starts from, if the config or the user names one; make it, if asked.

    Raises:
        ConfigError: stage 1 is missing; the text holds the command that makes it.
    """
    source, stage1 = find_stage_one(cfg, settings, options)
    if stage1 is None:
        return source
    file, knobs = stage1
    say(f"stage 1: {file}")
    train_one(complete(config.load(file, knobs)), str(file), settings, None, Resuming(), interruption)
    say(f"stage 2: {options.cfg_file}")
    return checkpoint.find(settings.folder(file) / "best")


def find_stage_one(
    cfg: dict, settings: Settings, options: Namespace
) -> tuple[Path | None, tuple[Path, list[str]] | None]:
    """Return the checkpoint to start from, or else config and knobs of the first stage that is to make it.

    The checkpoint is `--ckpt_file`, otherwise the best of the stage-1 config under `--save_dir` for the same seed.
    Both are None if the config starts from nothing.

    Raises:
        ConfigError: stage 1 is missing, and `--with_pretrain` was not given; the text holds the command that makes it.
    """
    if options.ckpt_file is not None:
        return checkpoint.find(options.ckpt_file), None
    if cfg["pretrain"] is None:
        return None, None
    file = Path(options.cfg_file).parent / cfg["pretrain"]["config"]
    knobs = [f"{key}={value!r}" for key, value in cfg["pretrain"].get("knobs", {}).items()]
    folder = settings.folder(file)
    again = ["python", "train.py", "--cfg_file", str(file), "--data_dir", str(settings.data_dir)]
    again += ["--save_dir", str(settings.save_dir), "--seed", str(settings.seed), *knobs]
    missing = unfinished(folder)
    if missing is None:
        require_same_pictures(cfg, folder, again)
        return checkpoint.find(folder / "best"), None
    if not options.with_pretrain:
        raise ConfigError(
            f"pretrain: {options.cfg_file} starts from stage 1, but {missing}. Make it with\n  {shlex.join(again)}\n"
            "or add --with_pretrain to do so first, or give a checkpoint by --ckpt_file"
        )
    return None, (file, knobs)


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
    last = next((folder / name for name in ("last", "last.old") if (folder / name).is_dir()), None)
    if last is not None:
        _, info = checkpoint.read(checkpoint.find(last))
        step, total = info["step"], info["config"]["total_steps"]
        if step < total or info.get("evaluated", step) != step:  # then the best may be yet to come
            return f"{folder} ended at step {step} of {total}"
    return None if (folder / "best").is_dir() else f"{folder / 'best'} does not exist"
