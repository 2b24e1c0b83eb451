"""SPOT and VVO-Tfd9 as runs: the second stage starts from the first, losses fall, what is clipped and driven."""

import json

import pytest
import torch

from object_centric_bench import config, experiment, restore
from object_centric_bench.datum import shapes
from object_centric_bench.experiment import Settings
from object_centric_bench.learn import checkpoint
from object_centric_bench.learn.checkpoint import CheckpointError
from object_centric_bench.learn.loop import train
from object_centric_bench.learn.run import apply_schedules
from object_centric_bench.registry import ConfigError

from .conftest import REPOSITORY
from .test_end_to_end import succeed

DEMO = REPOSITORY / "config-demo"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    shapes.convert(folder / "shapes", num_train=12, num_val=4, size=64)
    return Settings(folder, folder / "save", seed=1, device="cpu")


def make(name, settings, folder=None, **sections):
    cfg = config.load(DEMO / f"{name}.py", ["batch_size=4", "grid=8", "total_steps=20"])
    return experiment.build_run(experiment.complete(cfg | {"cache_feature": False} | sections), settings, folder)


@pytest.fixture(scope="module")
def stage1(settings):
    """A first stage with random weights, saved."""
    run = make("spot-shapes", settings)
    folder = settings.save_dir / "best"
    folder.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(folder, run.model, {"step": 1})
    return run.model.state_dict(), folder


@pytest.mark.parametrize("scratch", [False, True])
def test_teacher_and_student_start_from_one_first_stage(settings, stage1, scratch):
    expected, folder = stage1
    run = make("spot-shapes-distill", settings)
    if scratch:
        run.cfg["pretrain"]["modules"] = {"teacher": "", "backbone": "backbone"}
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    restore.load_pretrained(run, folder)
    after = run.model.state_dict()
    assert all(torch.equal(after[f"teacher.{name}"], tensor) for name, tensor in expected.items())
    copied = ("backbone.",) if scratch else ("backbone.", "projection.", "slot_attention.", "decoder.")
    for name, tensor in after.items():
        if not name.startswith("teacher."):
            assert torch.equal(tensor, expected[name] if name.startswith(copied) else before[name]), name


def test_what_the_first_stage_lacks_is_named(settings, stage1):
    run = make("spot-shapes-distill", settings)
    run.cfg["pretrain"]["modules"] = {"teacher": "", "decoder": "decodre"}
    with pytest.raises(CheckpointError, match="no part 'decodre', from which 'decoder' starts"):
        restore.load_pretrained(run, stage1[1])
    run.cfg["pretrain"]["modules"] = {"teacher": "decoder"}
    with pytest.raises(CheckpointError, match=r"missing: teacher\.backbone"):
        restore.load_pretrained(run, stage1[1])


def test_the_teacher_never_changes_and_the_students_last_blocks_do(settings, stage1):
    run = make("spot-shapes-distill", settings)
    restore.load_pretrained(run, stage1[1])
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    train(run)
    changed = {name for name, tensor in run.model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert not any(name.startswith("teacher.") for name in changed)
    ours = {name for name in changed if name.startswith("backbone.")}
    assert ours and all(name.startswith("backbone.model.blocks.2.") for name in ours)
    assert {name.partition(".")[0] for name in changed} >= {"projection", "initializer", "slot_attention", "decoder"}


def test_a_schedule_drives_the_weight_of_a_loss_and_a_wrong_name_is_refused(settings):
    line = dict(type="Linear", total_steps=40, start=0.005, final=0.105)
    schedule = {"loss": {"distillation": {"weight": line}}}
    run = make("spot-shapes-distill", settings, schedule=schedule)
    run.step = 20
    apply_schedules(run)
    assert run.loss["distillation"].weight == pytest.approx(0.055)
    for wrong in ({"distilation": {"weight": line}}, {"distillation": {"wieght": line}}):
        with pytest.raises(ConfigError, match="no number of this name in the loss"):
            make("spot-shapes-distill", settings, schedule={"loss": wrong})


def test_backbone_has_a_rate_of_its_own(settings):
    groups = [dict(pattern=r"backbone\..*", lr_scale=0.1)]
    run = make("spot-shapes-distill", settings, parameter_groups=groups)
    rates = {group["name"]: group["lr"] for group in run.optimizer.param_groups}
    assert rates[r"backbone\..*"] == pytest.approx(0.1 * rates["default"])


def test_the_largest_gradient_is_clipped(settings):
    run = make("spot-shapes", settings, grad_norm_type="inf", max_grad_norm=1e-3)
    largest = []
    step = run.optimizer.step
    trained = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    run.optimizer.step = lambda: (largest.append(max(float(each.grad.abs().max()) for each in trained)), step())
    train(run)
    assert max(largest) == pytest.approx(1e-3, rel=1e-3)
    with pytest.raises(ConfigError, match="grad_norm_type: the order of a norm, above 0, or 'inf', not 'max'"):
        make("spot-shapes", settings, grad_norm_type="max")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first"), [("spot-shapes-distill", "spot-shapes"), ("vvo_tfd9-shapes", "vqshapes-k16")]
)
def test_both_stages_train_from_the_command_line(settings, tmp_path, name, first):
    common = ["--data_dir", settings.data_dir, "--save_dir", tmp_path, "--device=cpu", "--with_pretrain"]
    small = ["batch_size=4", "total_steps=40", "eval_every=20", "callback.1.every=10"]
    stage = config.load(DEMO / f"{first}.py", ["batch_size=4", "total_steps=40"])
    run = experiment.build_run(experiment.complete(stage | {"eval_every": 20}), settings, tmp_path / first / "42")
    run.folder.mkdir(parents=True)
    train(run)
    succeed("train.py", "--cfg_file", f"config-demo/{name}.py", *common, *small)
    for folder in (tmp_path / first / "42", tmp_path / name / "42"):
        rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        scores = [row for row in rows if row["split"] == "eval"]
        taught = folder.parent.name == "spot-shapes-distill"
        for loss in ("recon", "distillation") if taught else ("recon",):
            assert scores[-1][loss] < scores[0][loss], loss
    taken, _ = checkpoint.read(checkpoint.find(tmp_path / name / "42"))
    source, _ = checkpoint.read(checkpoint.find(tmp_path / first / "42"))
    part = "teacher." if "spot" in name else "tokenizer.encoder."
    shared = [key for key in taken if key.startswith(part)]
    assert shared
    assert all(torch.equal(taken[key], source[key.removeprefix("teacher.")]) for key in shared)
