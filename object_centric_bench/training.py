"""One training run from its beginning, or from where an earlier one ended, to its end."""

import contextlib
import json
import os
from pathlib import Path
from typing import NamedTuple

from .console import say
from .experiment import Settings, build_run
from .files import DISK, file_hash
from .interruption import Interruption, Resumable
from .learn.loop import train
from .learn.run import Run, TrainingStopped, last_good
from .model.summary import summarize, table
from .occupied import occupied
from .provenance import CONFIG, add_resumption, data_checksums, write_description
from .registry import ConfigError
from .restore import load_pretrained, resume


class Resuming(NamedTuple):
    """What to do with an earlier run of the same name.

    Attributes:
        mode: `auto` takes it up if there is one, `must` fails if there is none, `never` moves it aside.
        anyway: take it up under a changed config too.
    """

    mode: str = "auto"
    anyway: bool = False


def train_one(
    cfg: dict,
    cfg_file: str,
    settings: Settings,
    source: Path | None,
    resuming: Resuming,
    interruption: Interruption,
) -> Run:
    """Build and train one run, or take up what there is of it; return it finished.

    Args:
        source: checkpoint to start from, or None.
        resuming: what to do with an earlier run of this name.
        interruption: what may end it early.

    Raises:
        Resumable: it was interrupted; `last` was saved.
        ConfigError: another run writes to its folder, or nothing can be written there.
        TrainingStopped: the disk is full.
    """
    folder = settings.folder(cfg_file)
    main = os.environ.get("RANK", "0") == "0"  # processes are connected later
    with occupied(folder) if main else contextlib.nullcontext():
        return _train_one(cfg, cfg_file, folder, settings, source, resuming, interruption)


def _train_one(
    cfg: dict,
    cfg_file: str,
    folder: Path,
    settings: Settings,
    source: Path | None,
    resuming: Resuming,
    interruption: Interruption,
) -> Run:
    run = build_run(cfg, settings, folder)
    if not take_up(run, folder, resuming):
        if source is not None:
            load_pretrained(run, source)
        make_room(run, folder)  # only now: nothing is moved for a run that cannot start
        facts = {"config": str(cfg_file), "data_dir": str(settings.data_dir), "starts_from": origin(source)}
        if run.folder is not None:
            write_description(run, folder, facts | {"data": data_checksums(cfg, settings.data_dir)})
    say(table(summarize(run.network)))
    if run.finished:
        say(f"{folder} is finished, at step {run.step}: not trained again (--resume never starts anew)")
        return run
    try:
        with interruption.training(run):
            train(run)
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise TrainingStopped(
            f"step {run.step}: {folder} cannot be written ({error}); {last_good(run)}. Nothing before it is lost: make "
            "room, the same command goes on from there"
        ) from error
    run.processes.wait()  # until the main one has written all
    if not run.finished:
        raise Resumable(f"step {run.step} of {run.total_steps}; {last_good(run)}")
    return run


def take_up(run: Run, folder: Path, resuming: Resuming) -> bool:
    """Bring a run back to where an earlier one of its folder ended, if there is one and it is wanted.

    Raises:
        ConfigError: wanted and not there, or made under another config.
    """
    if resuming.mode == "never":
        return False
    if not resume(run, folder, resuming.anyway):
        if resuming.mode == "must":
            raise ConfigError(f"--resume must: {folder} holds no checkpoint `last`; without it a run starts anew")
        return False
    if run.folder is not None and not run.finished:
        add_resumption(run, folder)
    return True


def make_room(run: Run, folder: Path) -> None:
    """Move an earlier run aside, unless it is this one, killed before its first checkpoint."""
    run.processes.wait()  # until all have looked into the folder
    if run.folder is None:
        return
    described = folder / CONFIG
    same = described.is_file() and json.loads(described.read_text()) == run.cfg
    if not same or (folder / "last").exists() or (folder / "best").exists():
        set_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)


def set_aside(folder: Path) -> None:
    """Rename the folder of an earlier run, so that nothing in it is lost; an empty or missing folder is left alone."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    number = 1
    while (other := folder.with_name(f"{folder.name}-earlier-{number}")).exists():
        number += 1
    folder.rename(other)
    say(f"an earlier run was moved to {other}")


def origin(source: Path | None) -> dict[str, str] | None:
    """Return which file a run starts from, and its hash."""
    return None if source is None else {"file": str(source), "sha256": file_hash(source)}
