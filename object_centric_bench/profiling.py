"""`train.py --profile N`: a table of where a step's time goes, what to set about it, and a trace for Perfetto."""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from .datum.timing import instrument
from .engine import native_bf16
from .experiment import Settings, build_run
from .files import replacing
from .learn.profile import FORWARD, PARTS, REST, TRACED, WARM_UP, Profile, profile
from .learn.run import Run
from .learn.spans import Span
from .model.freezing import is_frozen
from .model.frozen import reusable
from .registry import ConfigError

TABLE, TRACE = "profile.txt", "trace.json"
GROUPS = {  # what a row's time is spent on, for the verdict
    "waiting for data": "data",
    **dict.fromkeys(PARTS, "data"),
    "copy": "copy",
    "batch transforms": "copy",
    "metrics": "metrics",
    "logging": "logging",
    "callbacks": "logging",
    "optimizer": "optimizer",
    "clip gradients": "optimizer",
    "losses": "training",
    "backward": "training",
    REST: "loop",
}


def profile_run(cfg: dict, cfg_file: str, settings: Settings, steps: int) -> Path:
    """Profile a config on its data; print the table and write it and the trace; return their folder.

    That is the run's with `-profile` added: the run's own is not touched, and no checkpoint is written or read (a
    first stage's weights change no time). What frozen parts compute is kept in the cache as in any run.

    Args:
        cfg: completed.
        cfg_file: its file, which names the folder.
        settings: of the command line.
        steps: to measure.

    Raises:
        ConfigError: a number of steps that cannot be, or several processes.
    """
    if steps < 1:
        raise ConfigError(f"--profile {steps}: at least one step must be measured")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("--profile looks at one process; start it without a launcher")
    own = settings.folder(cfg_file)
    folder = own.with_name(f"{own.name}-profile")
    total = WARM_UP + steps + TRACED
    callbacks = [callback for callback in cfg["callback"] if callback["type"] != "Save"]
    # no evaluation on the way; the schedules keep the length that the config gives them
    changed = cfg | {"callback": callbacks, "total_steps": max(cfg["total_steps"], total + 1), "eval_every": total + 1}
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # else PyTorch's profiler tells of missing GPUs
    with tempfile.TemporaryDirectory() as temporary:
        run = build_run(changed, settings, Path(temporary), watch=instrument)
        activities = [torch.profiler.ProfilerActivity.CPU]
        if run.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        profiler = torch.profiler.profile(activities=activities)
        print(f"profiling {cfg_file}: {WARM_UP} steps to warm up, {steps} measured, {TRACED} traced")
        found = profile(run, steps, profiler)
        operators = Path(temporary) / "operators.json"
        profiler.export_chrome_trace(str(operators))
        trace = merged(json.loads(operators.read_text()), found)
    text = "\n".join([*table(found), "", verdict(found, run)])
    with replacing(folder / TABLE) as file:
        file.write_text(text + "\n")
    with replacing(folder / TRACE) as file:
        file.write_text(json.dumps(trace))
    print(f"\n{text}\n\ntable: {folder / TABLE}\ntrace: {folder / TRACE} (open it in https://ui.perfetto.dev)")
    return folder


def table(found: Profile) -> list[str]:
    """Return the table's lines."""
    width = max(map(len, found.rows))
    low, high = found.spread
    lines = [
        f"{found.steps} steps of {1e3 * found.step:.1f} ms on average ({1e3 * low:.1f} to {1e3 * high:.1f})",
        f"{'part of a step':<{width}}{'ms':>10}{'share':>9}",
    ]
    for name, seconds in found.rows.items():
        lines.append(f"{name:<{width}}{1e3 * seconds:>10.2f}{seconds / found.step:>9.1%}")
    lines.append(f"{'step':<{width}}{1e3 * found.step:>10.2f}{1:>9.1%}")
    if found.workers:
        makers = "1 worker makes" if found.workers == 1 else f"{found.workers} workers make"
        lines += ["", f"{makers} the batches meanwhile; one batch takes one of them"]
        lines += [f"{name:<{width}}{1e3 * seconds:>10.2f}" for name, seconds in found.data.items()]
    return lines


def verdict(found: Profile, run: Run) -> str:
    """Return the line that names what takes most of a step, and the setting that helps."""
    groups = {name: GROUPS.get(name) or ("frozen" if frozen_row(name, run) else "training") for name in found.rows}
    sums = dict.fromkeys(groups.values(), 0.0)
    for name, seconds in found.rows.items():
        sums[groups[name]] += seconds
    worst = max(sums, key=sums.__getitem__)
    most = max((name for name in groups if groups[name] == worst), key=found.rows.__getitem__)
    what, advice = ADVICE[worst](run, found)
    return f"bottleneck: {what}, {sums[worst] / found.step:.0%} of the step, most of it '{most}'. {advice}"


def frozen_row(name: str, run: Run) -> bool:
    """Tell whether a row is the forward time of a part that is not trained."""
    part = name.removeprefix(FORWARD)
    return (
        name.startswith(FORWARD)
        and part in dict(run.network.named_children())
        and is_frozen(getattr(run.network, part))
    )


def about_data(run: Run, found: Profile) -> tuple[str, str]:
    """Return what is slow about the data, and what helps: more workers, then whatever saves most of their work."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    largest = max(found.data, key=found.data.__getitem__)
    if not found.workers:
        return "making batches in the training process", f"Set dataset.num_workers={max(cores - 1, 1)}"
    what = f"waiting for {found.workers} data workers, who spend most on '{largest}'"
    if found.workers < cores:
        return what, f"Set dataset.num_workers={cores}: the machine has {cores} cores"
    if cacheable(run):
        return what, "Set cache_feature=True: pictures need not be read again"
    if largest == "decode":
        return what, "All cores are busy: store the pictures decoded (convert.py ... --pixels), or use more CPU cores"
    return what, "All cores are busy: more CPU cores, or smaller stored pictures (convert.py), would help"


def about_frozen(run: Run, found: Profile) -> tuple[str, str]:
    """Return what helps against the time of frozen parts."""
    what = "the forward pass of frozen parts"
    return (what, "Set cache_feature=True: they are computed once") if cacheable(run) else (what, faster(run))


def about_training(run: Run, found: Profile) -> tuple[str, str]:
    """Return what helps where the model itself takes the time."""
    return "forward and backward pass of what is trained", faster(run)


def faster(run: Run) -> str:
    """Return the settings, not yet made, that speed up a model's arithmetic."""
    cfg, hints = run.cfg, []
    if cfg["precision"] == "no" and (run.device.type == "cuda" or native_bf16()):
        hints.append("precision=auto")
    if cfg.get("compile") is False:
        hints.append("compile=True")
    if run.device.type == "cpu":
        hints.append("--device cuda where there is one")
    else:
        hints.append("a larger batch_size, if a GPU is not busy all the time")
    return f"That is the work itself; what can help: {', '.join(hints)}"


def cacheable(run: Run) -> bool:
    """Tell whether `cache_feature` is possible and not used: nothing is drawn, and a frozen part's output is taken."""
    steps = run.cfg["dataset"]["train"]["transforms"]
    drawn = any(step["type"].startswith("Random") for step in steps) or "clip" in run.cfg["dataset"]["train"]
    return not run.cfg["cache_feature"] and not drawn and "feature" in reusable(run.network)


ADVICE = {
    "data": about_data,
    "frozen": about_frozen,
    "training": about_training,
    "copy": lambda run, found: (
        "copying and normalising batches",
        "Keep pictures uint8 until they are on the device (batch_transforms), and lower the resolution",
    ),
    "metrics": lambda run, found: ("metrics on training batches", f"Set metric_every={10 * run.cfg['metric_every']}"),
    "logging": lambda run, found: ("logging and other callbacks", "Let Log write less often (callback.N.every)"),
    "optimizer": lambda run, found: ("the optimizer", "A larger batch_size needs fewer updates for as many samples"),
    "loop": lambda run, found: ("the loop itself, outside of every part", "A larger batch_size amortises it"),
}


def merged(trace: dict[str, Any], found: Profile) -> dict[str, Any]:
    """Return PyTorch's trace with the spans of all processes added on lanes of their own.

    Its clock is another one than ours; the spans that both recorded tell the difference.
    """
    events = trace["traceEvents"]
    own = os.getpid()
    theirs = sorted(event["ts"] for event in events if event.get("name") == "waiting for data" and "ts" in event)
    ours = sorted(span.start for span in found.spans[own] if span.name == "waiting for data")
    shift = theirs[0] - 1e6 * ours[0]
    for process, spans in found.spans.items():
        name = "step" if process == own else f"data worker {process}"
        events += lane(process, name, spans, shift)
    return trace


def lane(process: int, name: str, spans: Iterable[Span], shift: float) -> list[dict[str, Any]]:
    """Return spans as events of the Chrome trace format, on a thread of their own.

    Args:
        process: its id.
        name: of the thread.
        spans: in seconds.
        shift: microseconds to add.
    """
    place = {"pid": process, "tid": name}
    title = {"ph": "M", "name": "thread_name", **place, "args": {"name": name}}
    times = [{"ts": 1e6 * span.start + shift, "dur": 1e6 * span.seconds} for span in spans]
    return [
        title,
        *({"ph": "X", "cat": "part", "name": s.name, **place, **t} for s, t in zip(spans, times, strict=True)),
    ]
