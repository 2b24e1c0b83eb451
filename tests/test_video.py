"""Methods on video from the command line: convert MOVi-D, train both stages, score whole videos, draw frames."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import train
from object_centric_bench import config, experiment
from object_centric_bench.experiment import Settings
from object_centric_bench.learn import checkpoint
from object_centric_bench.learn.metric import SCORES
from object_centric_bench.registry import ConfigError

from .test_end_to_end import succeed

pytestmark = pytest.mark.slow

PARTS = """
from object_centric_bench.recipe import dataset, learn, method, model
from object_centric_bench.recipe.backbone import Backbone

GRID = [4, 4]
options = dict(embed_dim=48, depth=1, num_heads=3)
name = "vit_small_patch14_dinov2"
build = dict(type="Backbone", provider="timm", name=name, resolution=[56, 56], pretrained=False, options=options)
BACKBONE = Backbone(build, dim=48, grid=GRID)


def images(decoder=None):
    encoder = dict(type="ImageEncoder", dim=32, width=16, pretrained=False)
    quantizer = dict(type="LearnedCodebook", num_codes=64, dim=32)
    return dict(type="Tokenizer", encoder=encoder, quantizer=quantizer, decoder=decoder)


def features(dim=32, decoder=None):
    encoder = dict(type="FeatureEncoder", input_dim=48, dim=dim)
    quantizer = dict(type="ProjectedCodebook", num_codes=64, dim=dim, basis_dim=64, logit_scale=2.35)
    return dict(type="Tokenizer", encoder=encoder, quantizer=quantizer, decoder=decoder)


SLOTS = model.box_slots(32)


def run(parts, total_steps, segment, pretrain=None):
    settings = learn.reconstruction()
    settings["callback"][0] |= dict(image="batch.video")
    if segment:
        settings = learn.segmentation(mask="output.attention", size=[64, 64], best="ari")
    settings["callback"][-2]["every"] = 2
    data = dataset.movi_d(64, batch_size=2, eval_batch_size=2, segment=segment, num_boxes=5, frames=3)
    data["num_workers"] = 0
    cfg = dict(**parts, **settings, **learn.adam_with_warmup(lr=1e-3, total_steps=total_steps), dataset=data)
    return cfg | dict(metric_every=2, eval_every=2, pretrain=pretrain)
"""
CONFIGS = {
    "stage1": """
def config(total_steps=4):
    decoder = dict(type="ImageDecoder", dim=32, hidden_dim=32, width=16, pretrained=False)
    pair = dict(prediction="output.quantized", target="output.latent")
    parts = dict(
        model=dict(type="VQDINO", backbone=BACKBONE.build, tokenizer=features(decoder=decoder)),
        loss=dict(
            recon=dict(type="MSE", prediction="output.reconstruction", target="batch.target"),
            align=dict(type="MSE", **pair),
            norm=dict(type="UnitNorm", prediction="output.latent", weight=0.1),
        ),
        freeze=[r"backbone\\..*"],
    )
    return run(parts, total_steps, segment=False)
""",
    "tfdt": """
def config(total_steps=4):
    pretrain = dict(config="stage1.py", knobs={}, modules=["tokenizer.encoder", "tokenizer.quantizer"])
    return run(method.codes("VVOTfdT", BACKBONE, SLOTS, features(), num_layers=1), total_steps, True, pretrain)
""",
    "mlpt": """
def config(total_steps=2):
    parts = method.mixture("VVOMlpT", BACKBONE, SLOTS, features(), hidden_dim=64, num_hidden=1)
    return run(parts, total_steps, True)
""",
    "dfzt": """
def config(total_steps=2):
    return run(method.denoising("VVODfzT", BACKBONE, SLOTS, features(dim=4), widths=(32, 32)), total_steps, True)
""",
    "steve": """
def config(total_steps=2):
    return run(method.codes("STEVE", BACKBONE, SLOTS, images(), num_layers=1), total_steps, True)
""",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory, raw):
    """MOVi-D, converted from the raw sample: four videos for training, two for validation, 24 frames each."""
    folder = tmp_path_factory.mktemp("data")
    source = raw / "movi" / "movi_d" / "32x32"
    succeed("convert.py", "movi", "--src_dir", source, "--dst_dir", folder / "movi_d")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The config files."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "_parts.py").write_text(PARTS)
    for name, text in CONFIGS.items():
        (folder / f"{name}.py").write_text(f"from ._parts import *\n{text}")
    return folder


def require_scores(folder, losses):
    """Check what an evaluation of both validation videos wrote."""
    written = json.loads((folder / "eval.json").read_text())
    assert written["scores"].keys() == {*SCORES, *losses}
    assert all(math.isfinite(value) for value in written["scores"].values())
    assert len(written["images"]) == written["num_images"] == 2
    assert written["scores"]["mbo"] == pytest.approx(np.mean([row["mbo"] for row in written["images"]]))
    return written


def test_both_stages_train_and_score_whole_videos(data, files, tmp_path):
    common = ["--data_dir", data, "--save_dir", tmp_path, "--viz", 1]
    done = succeed("train.py", "--cfg_file", files / "tfdt.py", *common, "--with_pretrain")
    stage1, stage2 = tmp_path / "stage1" / "42", tmp_path / "tfdt" / "42"
    rows = [json.loads(line) for line in (stage1 / "log.jsonl").read_text().splitlines()]
    assert [(row["split"], row["step"]) for row in rows] == [("train", 2), ("eval", 2), ("train", 4), ("eval", 4)]
    assert all(math.isfinite(row["recon"]) for row in rows if row["split"] == "eval")
    first, second = (checkpoint.read(checkpoint.find(folder))[0] for folder in (stage1, stage2))
    shared = [name for name in second if name.startswith("tokenizer.")]
    assert shared and all(torch.equal(first[name], second[name]) for name in shared)
    scored = require_scores(stage2 / "eval", {"recon"})
    assert "videos" in done.stdout
    assert "first, middle and last frame of each video" in done.stdout
    picture = np.array(Image.open(stage2 / "eval" / "pictures.png"))
    assert picture.shape == (3 * 66 - 2, (3 + 5) * 66 - 2, 3)  # frames; picture, truth, prediction and five slots
    assert picture.std() > 10

    succeed("eval.py", "--ckpt_file", stage2, "--data_dir", data, "--out", tmp_path / "again")
    assert require_scores(tmp_path / "again", {"recon"})["scores"] == scored["scores"]


@pytest.mark.parametrize(
    ("name", "losses"), [("mlpt", {"quantized", "feature"}), ("dfzt", {"recon"}), ("steve", {"recon"})]
)
def test_every_method_trains_and_scores(name, losses, data, files, tmp_path):
    arguments = ["--cfg_file", files / f"{name}.py", "--data_dir", data, "--save_dir", tmp_path, "--viz", 0]
    assert train.main([*map(str, arguments), "precision=no"]) == 0
    require_scores(tmp_path / name / "42" / "eval", losses)


def test_boxes_that_are_needed_and_not_read_are_one_message(data, files):
    cfg = config.load(files / "tfdt.py")
    for split in ("train", "eval"):
        section = cfg["dataset"][split]
        section["keys"] = ["video", "segment"]
        section["transforms"] = [step for step in section["transforms"] if step["keys"] != ["box"]]
    settings = Settings(data, data / "save", device="cpu")
    with pytest.raises(ConfigError) as caught:
        experiment.build_run(experiment.complete(cfg), settings, None)
    assert str(caught.value) == (
        "dataset.train.keys: VVOTfdT needs 'box', but only video, segment are read\n"
        "dataset.eval.keys: VVOTfdT needs 'box', but only video, segment are read"
    )
    cfg["model"]["initializer"] = dict(type="PerSlotGaussian", num_slots=5, dim=32)
    run = experiment.build_run(experiment.complete(cfg), settings, None)
    batch = next(iter(run.train_batches(0)))
    assert batch["video"].shape == (2, 3, 3, 64, 64)
    assert "box" not in batch


def test_features_of_whole_videos_are_cached_but_not_those_of_drawn_clips(data, files):
    settings = Settings(data, data / "save", device="cpu")
    kept = dict(cache_feature=True, precision="no", cache_dtype="float32")
    cfg = config.load(files / "tfdt.py") | kept
    cfg["dataset"]["train"]["transforms"] = cfg["dataset"]["eval"]["transforms"]
    with pytest.raises(ConfigError, match=r"dataset\.train augments at random \(RandomClip\)"):
        experiment.build_run(experiment.complete(cfg), settings, None)
    cfg["dataset"]["train"]["clip"] = dict(type="SideClip", size=3)
    run = experiment.build_run(experiment.complete(cfg), settings, None)
    assert next(iter(run.train_batches(0)))["feature"].shape == (2, 3, 48, 4, 4)
    batch = next(iter(run.eval_batches()))
    assert "video" not in batch and "code" in batch
    plain = experiment.build_run(experiment.complete(cfg | dict(cache_feature=False)), settings, None)
    video = plain.batch_transforms[0](dict(next(iter(plain.eval_batches()))), None)["video"]
    expected = run.model.backbone(video.flatten(0, 1)).unflatten(0, (2, 24))
    torch.testing.assert_close(batch["feature"], expected, rtol=1e-4, atol=1e-4)
    before = sorted((settings.save_dir / "cache").glob("feature-*"))
    stage1 = config.load(files / "stage1.py") | kept
    stage1["dataset"]["train"]["transforms"] = stage1["dataset"]["eval"]["transforms"]
    stage1["dataset"]["train"]["clip"] = dict(type="SideClip", size=3)
    first = experiment.build_run(experiment.complete(stage1), settings, None)
    assert next(iter(first.train_batches(0)))["feature"].shape == (2, 3, 48, 4, 4)
    next(iter(first.eval_batches()))
    assert len(before) == 2 and sorted((settings.save_dir / "cache").glob("feature-*")) == before, "both stages share"
