"""The command `train.py --check`: each stage that the run would have, part by part."""

import logging
import time
from argparse import Namespace
from pathlib import Path

import torch

from .. import config
from ..console import bar
from ..experiment import Settings, build_run, complete
from ..job import cache_folder, data_folder, find_stage_one, make_shapes
from ..learn.run import Run
from ..model.summary import summarize, table
from ..restore import load_pretrained
from .data import check_batch, check_data
from .findings import Findings
from .trial import check_disk, check_step

SECTIONS = 6  # of one stage: config, data, weights, a batch, a step, disk
CPU_BATCH = 4  # samples of the step that is tried on a CPU; its time is scaled up


def check_command(options: Namespace) -> int:
    """Check the run that `train.py` with these options would be; return the exit code: 0, or 2 with faults.

    Raises:
        ConfigError: the config has faults, all named; or no folder of data is given.
    """
    logging.getLogger("object_centric_bench.model").setLevel(logging.ERROR)
    began = time.monotonic()
    cfg = complete(config.load(options.cfg_file, options.overrides))
    settings = Settings(
        data_folder(options.data_dir, cfg),
        Path(options.save_dir),
        seed=options.seed,
        device=options.device,
        cache_dir=cache_folder(options),
    )
    make_shapes(settings.data_dir, cfg)
    with bar(total=SECTIONS, desc="check", unit="section", leave=False) as progress:
        findings = Findings(progress)
        check(cfg, settings, options, findings)
    print(f"\n{len(findings.faults)} faults, {len(findings.warnings)} warnings, {time.monotonic() - began:.0f} s")
    for text in findings.faults:
        print(f"FAULT {text}")
    return 2 if findings.faults else 0


def check(cfg: dict, settings: Settings, options: Namespace, findings: Findings) -> None:
    """Check the stages that a run would have."""
    findings.head(f"config {options.cfg_file}")
    different = config.diff(config.load(options.cfg_file), config.load(options.cfg_file, options.overrides))
    findings.say(f"{len(different)} lines differ from the file's own setting" if different else "as in the file")
    for text in different:
        findings.say(f"  {text}")
    source = None
    with findings.catching():
        source = check_stage_one(cfg, settings, options, findings)
    check_run(cfg, options.cfg_file, settings, source, findings)


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
    findings.expect(SECTIONS)
    check_run(complete(config.load(file, knobs)), str(file), settings, None, findings)
    findings.head(f"config {options.cfg_file}, with random weights in place of stage 1's")
    return None


def check_run(cfg: dict, cfg_file: str, settings: Settings, source: Path | None, findings: Findings) -> None:
    """Check data, weights and one step of one stage."""
    findings.head("data")
    with findings.catching():
        check_data(cfg, settings, findings)
    findings.head("weights")
    with findings.catching():
        run = build_small(cfg, settings)
        if source is not None:
            load_pretrained(run, source)
        for line in table(summarize(run.network)).splitlines():
            findings.say(line)
        check_batch(run, settings.folder(cfg_file), findings)
        check_step(run, cfg, findings)
        check_disk(run, cfg, settings, findings)
    if cfg["cache_feature"] or cfg["cache_eval"]:
        with findings.catching():
            build_small(cfg, settings, cached=True)  # refuses what cannot be kept, and computes nothing yet


def build_small(cfg: dict, settings: Settings, cached: bool = False) -> Run:
    """Return the run with nothing compiled ahead, unless `cached` nothing kept, and on a CPU with small batches."""
    cfg = cfg | {"compile": False}
    if not cached:
        cfg = cfg | {"cache_feature": False, "cache_eval": False}
    if not torch.cuda.is_available() or settings.device == "cpu":
        sizes = {key: min(cfg["dataset"][key], CPU_BATCH) for key in ("batch_size", "eval_batch_size")}
        cfg = cfg | {"dataset": {**cfg["dataset"], **sizes, "num_workers": 0}}
    return build_run(cfg, settings, folder=None)
