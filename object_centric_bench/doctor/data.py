"""Are the files there and whole, are there labels, do slots suffice, and what does a batch look like?"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..console import bar
from ..experiment import Settings
from ..learn.run import Run
from ..picture import rows, save_grid
from ..registry import build
from .findings import Findings

SAMPLES = 32  # of each split that are looked at, evenly over it
DRAWN = 4  # samples of a batch that are drawn
FLAT = 0.05  # standard deviation of normalised pictures below which something is wrong: normalised twice it is 0.01
FAR = 5.0  # mean of normalised pictures above which they were not normalised
# samples of the whole datasets, by any of their splits; see docs/datasets.md
EXPECTED = {
    ("COCO", "train"): (118_287,),
    ("COCO", "eval"): (5_000,),
    ("ClevrTex", "train"): (50_000, 40_000),  # by the reference's split, and the official one
    ("ClevrTex", "eval"): (10_000, 5_000),
    ("VOC", "train"): (2_913, 1_464),  # likewise
    ("VOC", "eval"): (422, 632, 1_449),  # without and with VOC2007's test archive; official
    ("MOVi", "eval"): (250,),
}


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
    segments: dict[str, list[Tensor]] = {}
    for split in ("train", "eval"):
        dataset = build(section[split], f"dataset.{split}", data_dir=settings.data_dir)
        picks = np.unique(np.linspace(0, len(dataset) - 1, SAMPLES).astype(int))
        shown = bar(picks, f"look at {split}", unit="sample", leave=False)
        samples = [dataset.sample(int(index), np.random.default_rng(0)) for index in shown]
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
            segments[split] = [sample["segment"] for sample in samples]
    check_labels(segments, number_of_slots(cfg), findings)


def check_labels(segments: dict[str, list[Tensor]], slots: int | None, findings: Findings) -> None:
    """Check label maps (h w) or (t h w) of some samples of each split: are there objects, and not too many.

    What is wrong with both splits is told in one line.
    """
    counts = {split: [len(torch.unique(each[each > 0])) for each in maps] for split, maps in segments.items()}
    empty = [split for split, found in counts.items() if not any(found)]
    if empty:
        number = " and ".join(f"{len(counts[split])}" for split in empty)
        findings.fault(
            f"{' and '.join(f'dataset.{split}' for split in empty)}: none of {number} samples has a labelled object: "
            "the label maps are empty, and scores would mean nothing; convert the dataset again"
        )
    counts = {split: found for split, found in counts.items() if split not in empty}
    for split, found in counts.items():
        findings.say(f"{split}: {min(found)} to {max(found)} objects in {len(found)} samples")
    crowded = {split: sum(count > slots for count in found) if slots else 0 for split, found in counts.items()}
    crowded = {split: number for split, number in crowded.items() if number}
    if crowded:
        shares = " and ".join(f"dataset.{split}: {n} of {len(counts[split])}" for split, n in crowded.items())
        most = max(max(counts[split]) for split in crowded)
        text = f"{shares} samples have more objects than the {slots} slots (up to {most})"
        if any(number > len(counts[split]) / 2 for split, number in crowded.items()):
            findings.fault(f"{text}; set num_slots={most + 1}")
        else:
            findings.warn(f"{text}: some objects must share one")


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
        save_grid(file, rows(frames[:DRAWN], truth if truth is None else truth[:DRAWN], None, None))
        findings.say(f"picture: {file}")
