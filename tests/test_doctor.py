"""`train.py --check`: a sound run has no fault, and each of the mistakes that people make gives one line."""

import io
import logging
import shutil
import sys

import numpy as np
import pytest
import torch

import train
from object_centric_bench import config, experiment, job
from object_centric_bench.datum import moving_shapes, shapes
from object_centric_bench.doctor.command import check_command
from object_centric_bench.doctor.data import EXPECTED, check_labels
from object_centric_bench.doctor.findings import Findings
from object_centric_bench.experiment import Settings
from object_centric_bench.learn import checkpoint

from .conftest import REPOSITORY
from .terminal import Terminal

DEMO = REPOSITORY / "config-demo"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    shapes.convert(folder / "shapes", num_train=6, num_val=5, size=64)
    return folder


@pytest.fixture
def check(data, tmp_path, capsys):
    """Run the command on a demo config; return its exit code and faults."""

    def run(name, *overrides, data_dir=data, options=()):
        file = name if str(name).endswith(".py") else DEMO / f"{name}.py"
        common = ["--cfg_file", str(file), "--data_dir", str(data_dir), "--save_dir", str(tmp_path / "save")]
        parsed = train.parse([*common, "--check", "--device", "cpu", *options, "precision=no", *overrides])
        parsed.demo = False
        capsys.readouterr()
        code = job.guarded(lambda: check_command(parsed), parsed.level)
        out, err = capsys.readouterr()
        lines = [line for line in out.splitlines() if line.startswith("FAULT ")]
        lines += [line for line in err.splitlines() if line.startswith("error: ")]
        return code, lines, out

    package = logging.getLogger("object_centric_bench")
    before = package.level
    yield run
    package.setLevel(before)


def derived(tmp_path, name, change):
    """Return a config file that changes what a demo config gives."""
    target = tmp_path / "configs" / "changed.py"
    target.parent.mkdir(exist_ok=True)
    for source in DEMO.glob("*.py"):
        shutil.copy(source, target.parent)
    module = name.replace("-", "_")
    shutil.copy(DEMO / f"{name}.py", target.parent / f"{module}.py")
    lines = ["def config(precision='no'):", "cfg = base()", "cfg['precision'] = precision", change, "return cfg", ""]
    body = "\n    ".join(lines).rstrip() + "\n"
    target.write_text(f"from .{module} import config as base\n\n\n{body}")
    return target


def test_a_sound_run_has_no_fault_and_both_stages_are_tried(check, tmp_path):
    code, faults, out = check("vvo_mlp-shapes", options=["--with_pretrain"])
    assert (code, faults) == (0, [])
    assert out.count("a step") == 2 and out.count("peak memory") == 2
    assert "stage 1 is not there and will be made first" in out
    assert "backbone" in out and "frozen" in out and "sha256" in out
    assert (tmp_path / "save" / "vvo_mlp-shapes" / "42-check" / "batch.png").is_file()
    assert not (tmp_path / "save" / "vvo_mlp-shapes" / "42").exists(), "no run was begun"


def test_overrides_are_shown(check):
    _, _, out = check("dinosaur-shapes", "lr=0.002")
    assert "+ optimizer.lr = 0.002" in out


@pytest.mark.parametrize(
    ("terminal", "options", "shown"),
    [(True, [], True), (True, ["--quiet"], False), (False, [], False)],
    ids=["terminal", "quiet", "no terminal"],
)
def test_bars_show_sections_samples_and_steps_on_terminals(check, monkeypatch, terminal, options, shown):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    code, _, out = check("dinosaur-shapes", options=options)
    assert code == 0 and "a step" in out and "check:" not in out
    for text in ("check:", "/6 [", "disk]", "look at train:", "look at eval:", "try:"):
        assert (text in stream.getvalue()) == shown, text


def test_mistake_1_a_typo(check):
    code, faults, _ = check("dinosaur-shapes", "num_slot=5")
    assert code == 2 and len(faults) == 1 and "did you mean 'num_slots'?" in faults[0]


def test_mistake_2_pretrained_weights_that_are_not_there(check, tmp_path):
    change = "cfg['model']['backbone']['weights'] = '/no/such/weights.safetensors'"
    code, faults, _ = check(derived(tmp_path, "dinosaur-shapes", change))
    assert code == 2 and len(faults) == 1 and "/no/such/weights.safetensors" in faults[0]


def test_mistake_3_the_evaluation_split_is_the_training_split(check):
    code, faults, _ = check("dinosaur-shapes", "dataset.eval.file=shapes/train.lmdb")
    assert code == 2 and len(faults) == 1 and "dataset.eval.file" in faults[0] and "trained on" in faults[0]


def test_mistake_4_slots_too_few(check):
    code, faults, _ = check("dinosaur-shapes", "num_slots=2")
    assert code == 2 and len(faults) == 1
    assert "dataset.eval: " in faults[0] and "more objects than the 2 slots" in faults[0] and "num_slots=" in faults[0]


def test_mistake_5_a_truncated_dataset(check, data, tmp_path):
    shutil.copytree(data / "shapes", tmp_path / "shapes")
    file = tmp_path / "shapes" / "train.lmdb"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    code, faults, _ = check("dinosaur-shapes", data_dir=tmp_path)
    assert code == 2 and len(faults) == 1 and "train.lmdb is cut off" in faults[0]


def test_mistake_6_masks_without_objects(check, monkeypatch):
    real = shapes.Shapes.sample

    def empty(self, index, rng):
        sample = real(self, index, rng)
        return sample | {"segment": torch.zeros_like(sample["segment"])}

    monkeypatch.setattr(shapes.Shapes, "sample", empty)
    code, faults, _ = check("dinosaur-shapes")
    assert code == 2 and len(faults) == 1
    assert "dataset.train and dataset.eval: none of 6 and 5 samples has a labelled object" in faults[0]


def test_mistake_7_mean_and_deviation_twice(check, tmp_path):
    change = "cfg['dataset']['batch_transforms'] *= 2"
    code, faults, _ = check(derived(tmp_path, "dinosaur-shapes", change))
    assert code == 2 and len(faults) == 1
    assert "dataset.batch_transforms.1: Normalize of image, which is normalised already" in faults[0]


def test_mistake_8_no_normalisation(check, tmp_path):
    change = "cfg['dataset']['batch_transforms'] = []"
    code, faults, _ = check(derived(tmp_path, "dinosaur-shapes", change))
    assert code == 2 and len(faults) == 1 and "a Normalize is missing" in faults[0]


@pytest.fixture
def stage_one(data, tmp_path):
    """A first stage of another width, as a checkpoint."""
    cfg = experiment.complete(config.load(DEMO / "vqshapes.py", ["precision=no", "cache_feature=False"]))
    tokenizer = cfg["model"]["tokenizer"]
    tokenizer["encoder"]["dim"] = tokenizer["quantizer"]["dim"] = tokenizer["decoder"]["dim"] = 32
    run = experiment.build_run(cfg, Settings(data, tmp_path, device="cpu"), None)
    checkpoint.save(tmp_path / "best", run.network, {"config": cfg, "step": 1})
    return tmp_path / "best"


def test_mistake_9_a_first_stage_of_another_width(check, stage_one):
    code, faults, _ = check("vvo_mlp-shapes", options=["--ckpt_file", str(stage_one)])
    assert code == 2 and len(faults) == 1
    assert "does not fit this model: shape: tokenizer.encoder.to_latent.bias is (32,), the model has (64,)" in faults[0]
    assert "tokenizer.quantizer" in faults[0]


def test_mistake_10_the_first_stage_is_missing(check):
    code, faults, _ = check("vvo_mlp-shapes")
    assert code == 2 and len(faults) == 1 and "--with_pretrain" in faults[0] and "vqshapes.py" in faults[0]


def test_mistake_11_everything_frozen(check):
    code, faults, _ = check("dinosaur-shapes", "freeze=['.*']")
    assert code == 2 and len(faults) == 1 and "freeze" in faults[0] and "nothing" in faults[0]


def test_mistake_12_an_image_method_on_videos(check, data, tmp_path):
    moving_shapes.convert(tmp_path / "moving_shapes", num_train=2, num_val=2, size=64)
    video = "from object_centric_bench.recipe import dataset; cfg['dataset'] = dataset.moving_shapes(128, 2)"
    code, faults, _ = check(derived(tmp_path, "dinosaur-shapes", video), data_dir=tmp_path)
    assert code == 2 and len(faults) == 1 and "DINOSAUR takes image, the dataset gives" in faults[0]


def test_mistake_13_a_disk_that_is_too_small(check, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    code, faults, _ = check("dinosaur-shapes")
    assert code == 2 and len(faults) == 1 and "--save_dir" in faults[0]


def test_mistake_14_a_loss_that_overflows(check, tmp_path):
    change = "cfg['loss']['recon']['weight'] = 1e39"
    code, faults, _ = check(derived(tmp_path, "dinosaur-shapes", change))
    assert code == 2 and len(faults) == 1 and "loss.recon is not finite" in faults[0]


def test_mistake_15_a_cache_of_pictures_that_are_drawn_at_random(check, tmp_path):
    flip = "dict(type='RandomFlip', keys=['image', 'segment'])"
    change = f"cfg['dataset']['train']['transforms'].append({flip}); cfg['cache_feature'] = True"
    code, faults, out = check(derived(tmp_path, "dinosaur-shapes", change))
    assert (
        code == 2 and len(faults) == 1 and "cache_feature: dataset.train augments at random (RandomFlip)" in faults[0]
    )
    assert "up to 20 GB (cache_gigabytes) of all runs' in" in out


def test_counts_are_compared_with_those_that_the_documentation_expects(check, monkeypatch):
    _, _, out = check("dinosaur-shapes")
    assert "WARNING" not in out
    monkeypatch.setitem(EXPECTED, ("Shapes", "train"), (3_000, 4_000))
    _, _, out = check("dinosaur-shapes")
    assert "WARNING  dataset.train: 6 samples, the whole Shapes has 3,000 or 4,000" in out
    table = (REPOSITORY / "docs" / "datasets.md").read_text()
    assert all(f"{count:,}" in table for split in ("train", "eval") for count in EXPECTED["VOC", split])


def test_objects_are_counted_not_their_largest_id():
    findings = Findings()
    check_labels({"eval": [torch.tensor([[0, 200], [7, 7]], dtype=torch.uint8)]}, 2, findings)
    assert not findings.faults and not findings.warnings
    few = [torch.from_numpy(np.arange(9).reshape(3, 3))] + [torch.ones(2, 2)] * 3
    check_labels({"train": [torch.ones(2, 2)], "eval": few}, 2, findings)
    assert "1 of 4 samples have more objects than the 2 slots" in findings.warnings[0]
