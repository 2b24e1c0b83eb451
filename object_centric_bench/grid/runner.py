"""Run the jobs of a grid: one process for every GPU there is, or one after the other."""

import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..console import bar, quiet, say
from .plan import Job, finished

RESUMABLE = 3  # exit code of a run that was stopped and can be resumed
POLL = 0.2  # seconds between two looks at the running processes

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What became of the jobs.

    Attributes:
        failed: messages, one per job that ended with an error or could not start.
        interrupted: a run was stopped by its time limit or the cluster; the same command continues.
    """

    failed: list[str]
    interrupted: bool = False


def gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them; [] without any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    done = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    return [str(index) for index, line in enumerate(done.stdout.splitlines()) if line.startswith("GPU ")]


def run(jobs: list[Job], script: Path, data_dir: Path, save_dir: Path, options: list[str]) -> Outcome:
    """Make the runs that are missing; a line to the terminal for each that starts and ends.

    Args:
        jobs: from `plan`, each after what it needs.
        script: `train.py`.
        data_dir: folder of the datasets.
        save_dir: folder of the runs; `grid-logs/` in it gets what each process says.
        options: further options of `train.py`, such as `--time_limit 3h`.

    Raises:
        ConfigError: a run is there, but of another config.
    """
    done = {job for job in jobs if finished(job, save_dir)}
    waiting = [job for job in jobs if job not in done]
    say(f"{len(jobs)} runs: {len(done)} are there, {len(waiting)} to make")
    progress = bar(desc="grid", total=len(waiting), unit="run", leave=False)
    free: list[str | None] = [*gpus()] or [None]
    running: dict[Job, tuple[subprocess.Popen, str | None, float]] = {}
    outcome = Outcome([])
    lost: set[Job] = set()
    try:
        while waiting or running:
            for job in [job for job in waiting if job.needs in lost]:
                waiting.remove(job)
                lost.add(job)
                outcome.failed.append(f"{job}: not started, {job.needs} is missing")
            ready = [job for job in waiting if job.needs is None or job.needs in done]
            while ready and free and not outcome.interrupted:
                job, device = ready.pop(0), free.pop(0)
                waiting.remove(job)
                running[job] = (start(job, script, data_dir, save_dir, options, device), device, time.monotonic())
                tell(f"  start  {job}{'' if device is None else f' on GPU {device}'}")
            if outcome.interrupted and not running:
                break
            for job in [job for job, (process, _, _) in running.items() if process.poll() is not None]:
                process, device, since = running.pop(job)
                free.append(device)
                if process.returncode == 0:
                    done.add(job)
                    progress.update()
                    tell(f"  done   {job}, {(time.monotonic() - since) / 60:.1f} min")
                    continue
                lost.add(job)
                outcome.interrupted |= process.returncode == RESUMABLE
                outcome.failed.append(f"{job}: exit code {process.returncode}. {tail(log_file(job, save_dir))}")
            time.sleep(POLL if running else 0)
    finally:
        for process, _, _ in running.values():  # Ctrl-C: they got it too, and save
            process.wait()
        progress.close()
    return outcome


def tell(text: str) -> None:
    """Print a line above the progress bar, unless `--quiet` was given."""
    if not quiet():
        tqdm.write(text)


def start(
    job: Job, script: Path, data_dir: Path, save_dir: Path, options: list[str], device: str | None
) -> subprocess.Popen:
    """Start the process of a job; what it says goes to a file."""
    command = [sys.executable, str(script), "--cfg_file", str(job.cfg_file), "--data_dir", str(data_dir)]
    command += ["--save_dir", str(save_dir), "--seed", str(job.seed), "--viz", "8" if job.scored else "0"]
    environment = os.environ if device is None else {**os.environ, "CUDA_VISIBLE_DEVICES": device}
    file = log_file(job, save_dir)
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = [*command, *options, *job.overrides]
    log.debug("%s", shlex.join(whole))
    with file.open("w") as said:
        return subprocess.Popen(whole, stdout=said, stderr=said, env=environment)


def log_file(job: Job, save_dir: Path) -> Path:
    """Return where a job's process writes what it says."""
    return save_dir / "grid-logs" / f"{job.name}-{job.seed}.txt"


def tail(file: Path) -> str:
    """Return the last line of a log that says something, and where the whole is."""
    lines = [line.strip() for line in file.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return f"{(errors or lines or ['it said nothing'])[-1]} (all of it: {file})"
