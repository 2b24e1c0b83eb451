"""`train.py --check`: look at everything that a run will need, without training it."""

import logging
import resource
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import config
from .datum.record import DataError
from .experiment import Settings, build_run, complete
from .job import cache_folder, data_folder, find_stage_one, make_shapes
from .learn.checkpoint import CheckpointError
from .learn.health import without_gradient
from .learn.loop import evaluate
from .learn.optimizer import train_mode
from .learn.run import Run, TrainingStopped, apply_schedules
from .learn.step import take_step
from .model.summary import summarize, table
from .model.weights import WeightsError
from .picture import rows, save_grid
from .registry import ConfigError, build
from .restore import load_pretrained

SAMPLES = 32  # of each split that are looked at, evenly over it
CPU_BATCH = 4  # samples of the step that is tried on a CPU; its time is scaled up
FLAT = 0.05  # standard deviation of normalised pictures below which something is wrong: normalised twice it is 0.01
FAR = 5.0  # mean of normalised pictures above which they were not normalised
ERRORS = (ConfigError, DataError, CheckpointError, WeightsError, TrainingStopped, ValueError)


@dataclass
class Findings:
    """What was found; every line is printed as it comes.

    Attributes:
        faults: what keeps the run from working, or makes its results wrong.
        warnings: what the user should know.
    """

    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def head(self, title: str) -> None:
        """Begin a section."""
        print(f"\n{title}")

    def say(self, text: str) -> None:
        """Tell a fact."""
        print(f"  {text}")

    def warn(self, text: str) -> None:
        """Tell something to know."""
        self.warnings.append(text)
        print(f"  WARNING  {text}")

    def fault(self, text: str) -> None:
        """Tell something to set right."""
        self.faults.append(text)
        print(f"  FAULT    {text}")

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Turn the errors that a run would end with into faults, and go on after the block."""
        try:
            yield
        except ERRORS as error:
            self.fault("; ".join(line.strip() for line in str(error).splitlines()))


def check_command(options: Namespace) -> int:
    """Check the run that `train.py` with these options would be; return the exit code: 0, or 2 with faults.

    Raises:
        ConfigError: the config has faults, all named; or no folder of data is given.
    """
    logging.getLogger("object_centric_bench.model").setLevel(logging.ERROR)
    findings, began = Findings(), time.monotonic()
    cfg = complete(config.load(options.cfg_file, options.overrides))
    settings = Settings(
        data_folder(options.data_dir, cfg),
        Path(options.save_dir),
        seed=options.seed,
        device=options.device,
        cache_dir=cache_folder(options),
    )
    make_shapes(settings.data_dir, cfg)
    findings.head(f"config {options.cfg_file}")
    different = config.diff(config.load(options.cfg_file), config.load(options.cfg_file, options.overrides))
    findings.say(f"{len(different)} lines differ from the file's own setting" if different else "as in the file")
    for text in different:
        findings.say(f"  {text}")
    source = None
    with findings.catching():
        source = check_stage_one(cfg, settings, options, findings)
    check_run(cfg, options.cfg_file, settings, source, findings)
    print(f"\n{len(findings.faults)} faults, {len(findings.warnings)} warnings, {time.monotonic() - began:.0f} s")
    for text in findings.faults:
        print(f"FAULT {text}")
    return 2 if findings.faults else 0


def check_stage_one(cfg: dict, settings: Settings, options: Namespace, findings: Findings) -> Path | None:
    """Return the checkpoint that the run starts from, None if there is none; check the first stage that would be made.

    Raises:
        ConfigError: it is missing, and nobody asked to make it.
    """
    if options.ckpt_file is None and cfg["pretrain"] is None:
        return None
    source, stage_one = find_stage_one(cfg, settings, options)
    if source is not None:
        findings.say(f"starts from {source}")
        return source
    if stage_one is None:
        return None
    file, knobs = stage_one
    findings.say(f"stage 1 is not there and will be made first, from {file}")
    check_run(complete(config.load(file, knobs)), str(file), settings, None, findings)
    findings.head(f"config {options.cfg_file}, with random weights in place of stage 1's")
    return None


def check_run(cfg: dict, cfg_file: str, settings: Settings, source: Path | None, findings: Findings) -> None:
    """Check data, weights and one step of one stage."""
    findings.head("data")
    with findings.catching():
        check_data(cfg, settings, findings)
    with findings.catching():
        run = build_small(cfg, settings)
        if source is not None:
            load_pretrained(run, source)
        findings.head("weights")
        for line in table(summarize(run.network)).splitlines():
            findings.say(line)
        check_batch(run, settings.folder(cfg_file), findings)
        check_step(run, cfg, findings)
        check_disk(run, settings.save_dir, findings)


def build_small(cfg: dict, settings: Settings) -> Run:
    """Return the run with nothing kept or compiled ahead, and on a CPU with small batches."""
    cfg = cfg | {"cache_feature": False, "cache_eval": False, "compile": False}
    if not torch.cuda.is_available() or settings.device == "cpu":
        sizes = {key: min(cfg["dataset"][key], CPU_BATCH) for key in ("batch_size", "eval_batch_size")}
        cfg = cfg | {"dataset": {**cfg["dataset"], **sizes, "num_workers": 0}}
    return build_run(cfg, settings, folder=None)


def check_data(cfg: dict, settings: Settings, findings: Findings) -> None:
    """Check files, counts and labels of both splits.

    Raises:
        ConfigError, DataError: a split cannot be read.
    """
    section = cfg["dataset"]
    files = {split: (settings.data_dir / section[split]["file"]).resolve() for split in ("train", "eval")}
    if files["train"] == files["eval"]:
        findings.fault(f"dataset.eval.file: {section['eval']['file']} is the file of dataset.train too: scores would "
                       "be those of the images trained on")  # fmt: skip
    slots = number_of_slots(cfg)
    for split in ("train", "eval"):
        dataset = build(section[split], f"dataset.{split}", data_dir=settings.data_dir)
        picks = np.unique(np.linspace(0, len(dataset) - 1, SAMPLES).astype(int))
        samples = [dataset.sample(int(index), np.random.default_rng(0)) for index in picks]
        shapes = sorted(
            {str(tuple(sample[key].shape)) for sample in samples for key in ("image", "video") if key in sample}
        )
        findings.say(f"{split}: {len(dataset):,} samples in {section[split]['file']}, {', '.join(shapes)} each")
        expected = EXPECTED.get((section[split]["type"], split))
        if expected is not None and len(dataset) not in expected:
            numbers = " or ".join(f"{count:,}" for count in expected)
            findings.warn(
                f"dataset.{split}: {len(dataset):,} samples, the whole {section[split]['type']} has {numbers}"
            )
        if "segment" in section[split]["keys"]:
            check_labels(split, [sample["segment"] for sample in samples], slots, findings)


# samples of the whole datasets, by any of their splits; see docs/datasets.md
EXPECTED = {
    ("COCO", "train"): (118_287,),
    ("COCO", "eval"): (5_000,),
    ("ClevrTex", "train"): (50_000, 40_000),  # by the reference's split, and the official one
    ("ClevrTex", "eval"): (10_000, 5_000),
    ("MOVi", "eval"): (250,),
}


def check_labels(split: str, segments: list[Tensor], slots: int | None, findings: Findings) -> None:
    """Check label maps (h w) or (t h w) of some samples: are there objects, and not too many."""
    counts = [len(torch.unique(segment[segment > 0])) for segment in segments]
    if not any(counts):
        findings.fault(
            f"dataset.{split}: none of {len(counts)} samples has a labelled object: the label maps are empty, and "
            "scores would mean nothing; convert the dataset again"
        )
        return
    findings.say(f"{split}: {min(counts)} to {max(counts)} objects in {len(counts)} samples")
    crowded = sum(count > slots for count in counts) if slots else 0
    if crowded:
        text = f"dataset.{split}: {crowded} of {len(counts)} samples have more objects than the {slots} slots"
        if crowded > len(counts) / 2:
            findings.fault(f"{text} (up to {max(counts)}); set num_slots={max(counts) + 1}")
        else:
            findings.warn(f"{text} (up to {max(counts)}): some objects must share one")


def number_of_slots(cfg: dict) -> int | None:
    """Return the number of slots that a config states, by its initializer or the boxes it pads to; None if neither."""
    number = cfg["model"].get("initializer", {}).get("num_slots")
    pads = [each["size"] for each in cfg["dataset"]["eval"]["transforms"] if each["type"] == "PadTo"]
    return number if number is not None else next(iter(pads), None)


def check_batch(run: Run, folder: Path, findings: Findings) -> None:
    """Check the values of a batch before and after its transforms, and draw it."""
    findings.head("a batch")
    batch = next(iter(run.train_batches(0)))
    before = dict(batch)
    for number, transform in enumerate(run.batch_transforms):
        twice = [key for key in getattr(transform, "keys", []) if before[key].is_floating_point()]
        if twice and hasattr(transform, "invert"):
            findings.fault(
                f"dataset.batch_transforms.{number}: {type(transform).__name__} of {', '.join(twice)}, which is "
                "normalised already; leave it out"
            )
        before = transform(before, None)
    for key in ("image", "video"):
        if key not in batch:
            continue
        raw, value = batch[key], before[key].float()
        findings.say(
            f"{key}: {raw.dtype} {int(raw.min())} to {int(raw.max())} before, after: mean {value.mean():.3f}, standard "
            f"deviation {value.std():.3f}, {value.min():.2f} to {value.max():.2f}"
        )
        if value.abs().mean() > FAR:
            findings.fault(
                f"dataset.batch_transforms: {key} reaches the model with values up to {value.abs().max():.0f}: a "
                "Normalize is missing"
            )
        elif value.std() < FLAT:
            findings.fault(
                f"dataset.batch_transforms: {key} reaches the model with standard deviation {value.std():.4f}: "
                "normalised twice, or empty pictures"
            )
        frames = raw if key == "image" else raw[:, 0]
        truth = batch.get("segment")
        truth = truth if truth is None or key == "image" else truth[:, 0]
        file = folder.with_name(f"{folder.name}-check") / "batch.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        save_grid(file, rows(frames[:CPU_BATCH], truth if truth is None else truth[:CPU_BATCH], None, None))
        findings.say(f"picture: {file}")


def check_step(run: Run, cfg: dict, findings: Findings) -> None:
    """Try training steps and an evaluation batch; estimate time and memory of the whole run."""
    findings.head("a step")
    section = cfg["dataset"]
    batches = run.train_batches(0)
    parameters = [parameter for parameter in run.network.parameters() if parameter.requires_grad]
    if not parameters:
        findings.fault("freeze: nothing is left to train")
        return
    run.measuring = False
    batch = next(iter(batches))
    tried = len(batch["index"])

    def step() -> None:
        train_mode(run.model)
        apply_schedules(run)
        take_step(run, batch, parameters)
        norms.append(float(0.0 if run.grad_norm is None else run.grad_norm))  # waits for the device

    norms: list[float] = []
    first, again = seconds(step), seconds(step)
    losses = {name: float(value) for name, value in run.losses.items()}
    findings.say("losses " + ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
                 + f", gradient norm {norms[-1]:.4g}")  # fmt: skip
    bad = [name for name, value in losses.items() if not np.isfinite(value)]
    if bad:
        findings.fault(f"loss.{bad[0]} is not finite in the first steps")
    idle = without_gradient(run.network)
    if idle:
        findings.warn(
            f"{len(idle)} trained parameters get no gradient: {', '.join(idle[:4])}{' ...' if idle[4:] else ''}"
        )
    per_step = min(first, again) * section["batch_size"] / tried
    small = replace(run, eval_length=1)
    per_eval = seconds(lambda: evaluate(small)) * section["eval_batch_size"] / min(tried, section["eval_batch_size"])
    passes = -(-cfg["total_steps"] // cfg["eval_every"])
    samples = run.eval_length * run.cfg["dataset"]["eval_batch_size"]
    batches_of_eval = -(-samples // section["eval_batch_size"])
    hours = (per_step * cfg["total_steps"] + passes * batches_of_eval * per_eval) / 3600
    findings.say(f"{first:.2f} s the first, {again:.2f} s the second, of {tried} samples")
    findings.say(
        f"whole run, as measured here: {hours:.1f} h ({cfg['total_steps']:,} steps of {section['batch_size']}, "
        f"{passes} evaluations), data loading aside"
    )
    findings.say(f"peak memory: {peak_memory(run.device) / 2**30:.1f} GiB with {tried} samples on {run.device}")


def seconds(function: Callable[[], None]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def peak_memory(device: torch.device) -> int:
    """Return the most bytes used so far: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def check_disk(run: Run, save_dir: Path, findings: Findings) -> None:
    """Check that both checkpoints, and the one being written, fit on the disk."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in run.network.state_dict().values())
    moments = 2 * sum(each.numel() * each.element_size() for each in run.network.parameters() if each.requires_grad)
    needed = 3 * weights + 2 * moments  # best, last, and one under its temporary name
    folder = save_dir
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    findings.head("disk")
    findings.say(f"{needed / 2**30:.2f} GiB for checkpoints, {free / 2**30:.1f} GiB free below {save_dir}")
    if free < needed:
        findings.fault(f"--save_dir {save_dir}: {free / 2**30:.2f} GiB are free, checkpoints need {needed / 2**30:.2f}")
