"""Published configs run: some steps and an evaluation of each kind, on the small samples, with random weights."""

import pytest

from object_centric_bench import config, experiment
from object_centric_bench.datum import coco, movi
from object_centric_bench.experiment import Settings
from object_centric_bench.learn.loop import train
from object_centric_bench.registry import ConfigError

from .conftest import REPOSITORY

pytestmark = pytest.mark.slow

NARROW = "model.decoder.widths=[32,32]"
SMALL_VIT = [  # in place of ViT-B, which takes half a minute
    "model.backbone.name=vit_small_patch16_224.dino",
    "model.projection.dims=[384,384,384]",
    "model.slot_attention.input_dim=384",
    "model.decoder.dim=384",
]
RUNS = {  # every kind of first and second stage, and what of it would take too long
    "config-slatesteve/vqvae-coco-c256.py": [],
    "config-slatesteve/vqvae-movi_d-c256.py": [],
    "config-slatesteve/slate_r_vqvae-coco.py": [],
    "config-slatesteve/steve_c_vqvae-movi_d.py": [],
    "config-dinosaur/dinosaur_r-coco.py": [],
    "config-slotdiffusion/vqvae-coco-c4.py": [],
    "config-slotdiffusion/slotdiffusion_r_vqvae-coco.py": [NARROW],
    "config-vqdino/vqdino-coco-c4.py": [],
    "config-vqdino/vqdino-movi_d-c256.py": [],
    "config-vqdino/vqdino_mlp_r-coco.py": [],
    "config-vqdino/vqdino_dfz_r-coco.py": [NARROW],
    "config-vqdino/vqdino_tfdt_c-movi_d.py": [],
    "config-msf/vqvae-coco-c256-gdr.py": [],
    "config-msf/vqvae-coco-c256-msf.py": [],
    "config-msf/vqvae-coco-c4-msf.py": [],
    "config-msf/slate_r_vqvae-coco-msf.py": [],
    "config-msf/slotdiffusion_r_vqvae-coco-msf.py": [NARROW],
    "config-spot/spot_r-coco.py": [],
    "config-spot/spot_r-coco-distill.py": [],
    "config-vqdino/vqdino_tfd9_r-coco.py": [],
    "config-videosaur/videosaur_r-movi_d.py": [],
    "config-vqdino/vqdino_smdt_r-movi_d.py": [],
    "config-spot/spot_r-coco-paper.py": SMALL_VIT,  # at its own 224 pixels
}


@pytest.fixture(scope="module")
def data(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    coco.convert(raw / "coco", folder / "coco")
    movi.convert(raw / "movi" / "movi_d" / "32x32", folder / "movi_d")
    return folder


def load(name, overrides=()):
    small = [] if name.endswith("-paper.py") else ["resolution=64"]
    small += ["batch_size=2", "total_steps=2", "pretrained=False", "dataset.num_workers=0"]
    cfg = config.load(REPOSITORY / name, [*small, *overrides])
    return experiment.complete(cfg | {"eval_every": 2, "metric_every": 1})


@pytest.mark.parametrize("name", RUNS)
def test_trains_and_scores(name, data, tmp_path):
    cfg = load(name, RUNS[name])
    (tmp_path / "run").mkdir()
    run = experiment.build_run(cfg, Settings(data, tmp_path, device="cpu"), tmp_path / "run")
    train(run)
    assert run.step == 2
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


def test_an_image_method_on_videos_is_one_message(data, tmp_path):
    cfg = load("config-slatesteve/slate_r_vqvae-coco.py")
    cfg["dataset"] = load("config-slatesteve/steve_c_vqvae-movi_d.py")["dataset"]
    with pytest.raises(ConfigError, match=r"dataset\.train\.keys: SLATE takes image, the dataset gives video"):
        experiment.build_run(cfg, Settings(data, tmp_path, device="cpu"), None)


def test_batches_without_samples_are_refused():
    with pytest.raises(ConfigError, match=r"dataset\.batch_size: a number of samples, 1 or more, not 0"):
        load("config-slatesteve/slate_r_vqvae-coco.py", ["batch_size=0"])


@pytest.mark.parametrize("name, resolution, multiple", [("vqvae-coco-c256", 100, 16), ("vqvae-coco-c256-msf", 80, 64)])
def test_resolutions_that_do_not_divide_are_refused(name, resolution, multiple):
    folder = "config-msf" if name.endswith("msf") else "config-slatesteve"
    with pytest.raises(ConfigError, match=f"resolution must be a multiple of {multiple} pixels"):
        config.load(REPOSITORY / folder / f"{name}.py", [f"resolution={resolution}"])


def test_384_pixels_start_from_the_stage_one_there_is():
    for folder, name, stage1 in (
        ("slatesteve", "slate_r_vqvae-clevrtex", "vqvae-clevrtex-c256.py"),
        ("slatesteve", "slate_r_vqvae-coco", "vqvae-coco-c256-r384.py"),
        ("msf", "slate_r_vqvae-coco-msf", "vqvae-coco-c256-msf.py"),
    ):
        cfg = config.load(REPOSITORY / f"config-{folder}" / f"{name}.py", ["resolution=384"])
        assert cfg["pretrain"]["config"] == stage1 and cfg["pretrain"]["knobs"]["resolution"] == 384
        assert (REPOSITORY / f"config-{folder}" / stage1).is_file()
