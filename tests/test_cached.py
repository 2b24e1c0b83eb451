"""What frozen parts compute is kept: equal numbers, found again, made again when anything changes, never a failure."""

import copy
import json
import shutil

import pytest
import torch

import train as train_script
from object_centric_bench import cached, config, experiment
from object_centric_bench.datum import shapes
from object_centric_bench.experiment import Settings
from object_centric_bench.learn.loop import evaluate, train
from object_centric_bench.registry import ConfigError

from .conftest import REPOSITORY

DEMO = REPOSITORY / "config-demo"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    shapes.convert(folder / "shapes", num_train=5, num_val=4, size=64)
    return folder


@pytest.fixture
def settings(data, tmp_path):
    return Settings(data, tmp_path / "save", seed=1, device="cpu")


def demo(name="dinosaur-shapes", *overrides, **changed):
    changes = ["batch_size=3", "dataset.eval_batch_size=3", "precision=no", "cache_feature=False", *overrides]
    return experiment.complete(config.load(DEMO / f"{name}.py", changes) | changed)


def scores(cfg, settings):
    run = experiment.build_run(cfg, settings, None)
    evaluate(run)
    return run, run.result


def entries(settings):
    return sorted(path.name for path in (settings.save_dir / "cache").glob("*/"))


@pytest.mark.parametrize("name", ["dinosaur-shapes", "vvo_mlp-shapes", "vvo_tfd-shapes", "vqshapes"])
def test_scores_are_exactly_those_without_the_cache_when_computed_and_when_read(name, settings, monkeypatch):
    _, plain = scores(demo(name), settings)
    cfg = demo(name, "cache_eval=True", "cache_dtype=float32")
    assert scores(cfg, settings)[1] == plain
    monkeypatch.setattr(cached, "compute", None)  # the second pass computes nothing
    run, again = scores(cfg, settings)
    assert again == plain
    monkeypatch.setattr(run.network.backbone, "forward", None)
    evaluate(run)
    assert run.result == plain
    (batch, *_) = run.eval_batches()
    assert ("image" in batch) == (name == "vqshapes"), "the first stage's loss wants pictures, no other needs them"
    assert ("code" in batch) == name.startswith("vvo")


def test_float16_rounds_scores_by_little_and_halves_the_file(settings):
    _, plain = scores(demo(), settings)
    _, rounded = scores(demo("dinosaur-shapes", "cache_eval=True"), settings)
    assert rounded == pytest.approx(plain, rel=2e-3, abs=2e-3)
    assert rounded["recon"] != plain["recon"], "float16 was not used"
    scores(demo("dinosaur-shapes", "cache_eval=True", "cache_dtype=float32"), settings)
    sizes = sorted(file.stat().st_size for file in (settings.save_dir / "cache").glob("*/rows.bin"))
    assert sizes[1] == 2 * sizes[0]


def test_training_takes_kept_features_too_and_gives_the_same_losses(settings):
    losses = []
    for kept in (False, True):
        cfg = demo("dinosaur-shapes", "cache_dtype=float32", "total_steps=2", cache_feature=kept, eval_every=2)
        run = experiment.build_run(cfg, settings, None)
        run.callbacks = [callback for callback in run.callbacks if type(callback).__name__ == "MaskToSegment"]
        train(run)
        losses.append(run.result)
    assert losses[0] == losses[1]
    assert len(entries(settings)) == 2


def test_methods_and_stages_with_the_same_frozen_part_share_what_is_kept(settings):
    cfg = demo("dinosaur-shapes", "cache_eval=True")
    scores(cfg, settings)
    before = entries(settings)
    scores(demo("vqshapes", "cache_eval=True"), settings)
    assert entries(settings) == before
    scores(demo("vvo_mlp-shapes", "cache_eval=True"), settings)
    (more,) = set(entries(settings)) - set(before)
    assert more.startswith("code-")


def test_the_same_file_elsewhere_under_another_name_is_the_same_data(settings, tmp_path):
    cfg = demo("dinosaur-shapes", "cache_eval=True")
    scores(cfg, settings)
    shutil.copytree(settings.data_dir / "shapes", tmp_path / "copy" / "renamed")
    moved = copy.deepcopy(cfg)
    moved["dataset"]["train"]["file"] = "renamed/train.lmdb"
    moved["dataset"]["eval"]["file"] = "renamed/val.lmdb"
    before = entries(settings)
    scores(moved, Settings(tmp_path / "copy", settings.save_dir, seed=1, device="cpu"))
    assert entries(settings) == before


def test_whatever_changes_the_numbers_makes_another_entry(settings, tmp_path):
    cfg = demo("dinosaur-shapes", "cache_eval=True")
    scores(cfg, settings)
    seen = {*entries(settings)}
    other_data = tmp_path / "other"
    shapes.convert(other_data / "shapes", num_train=5, num_val=4, size=64, seed=7)
    changed = {
        "data": (cfg, Settings(other_data, settings.save_dir, seed=1, device="cpu"), None),
        "transforms": (copy.deepcopy(cfg), settings, None),
        "resolution": (demo("dinosaur-shapes", "cache_eval=True", "model.backbone.resolution=[96,96]"), settings, None),
        "precision": (cfg | {"precision": "bf16"}, settings, None),
        "dtype": (cfg | {"cache_dtype": "float32"}, settings, None),
        "weights": (cfg, settings, 1.5),
    }
    changed["transforms"][0]["dataset"]["eval"]["transforms"].insert(
        0, dict(type="CenterCrop", keys=["image", "segment"], size=48)
    )
    for what, (section, place, factor) in changed.items():
        run = experiment.build_run(section, place, None)
        if factor is not None:
            with torch.no_grad():
                next(run.network.backbone.parameters()).mul_(factor)
        next(iter(run.eval_batches()))
        now = {*entries(settings)}
        assert len(now) == len(seen) + 1, what
        seen = now


def test_weights_that_are_loaded_later_are_noticed(settings):
    run, _ = scores(demo("dinosaur-shapes", "cache_eval=True"), settings)
    before = next(iter(run.eval_batches()))["feature"]
    state = {name: tensor * 1.5 for name, tensor in run.network.backbone.state_dict().items()}
    run.network.backbone.load_state_dict(state)
    after = next(iter(run.eval_batches()))["feature"]
    assert not torch.equal(before, after)


def test_no_room_is_said_and_the_run_goes_on_without(settings, caplog):
    _, plain = scores(demo(), settings)
    _, result = scores(demo("dinosaur-shapes", "cache_eval=True", cache_gigabytes=1e-6), settings)
    assert result == plain
    assert "goes on without the cache" in caplog.text and "cache_gigabytes" in caplog.text
    assert entries(settings) == []


def test_damaged_entries_are_made_again(settings, caplog):
    cfg = demo("dinosaur-shapes", "cache_eval=True", "cache_dtype=float32")
    _, expected = scores(cfg, settings)
    (file,) = (settings.save_dir / "cache").glob("*/rows.bin")
    data = bytearray(file.read_bytes())
    data[100] ^= 255
    file.write_bytes(data)
    assert scores(cfg, settings)[1] == expected
    assert "damaged" in caplog.text


def test_what_cannot_be_kept_is_one_message_before_anything_runs(settings):
    cfg = demo("dinosaur-shapes", "cache_eval=True")
    cfg["dataset"]["eval"]["transforms"].append(dict(type="RandomFlip", keys=["image", "segment"]))
    with pytest.raises(ConfigError, match=r"cache_eval: dataset\.eval augments at random \(RandomFlip\)"):
        experiment.build_run(cfg, settings, None)
    with pytest.raises(ConfigError, match="cache_eval: DINOSAUR takes nothing that a frozen part computes"):
        cfg = demo("dinosaur-shapes", "cache_eval=True", "freeze=[]")
        cfg["model"]["backbone"]["trainable"] = True
        experiment.build_run(cfg, settings, None)
    cfg = config.load(DEMO / "dinosaur-shapes.py") | dict(cache_dtype="float8", cache_gigabytes=0, cache_eval="yes")
    with pytest.raises(ConfigError) as caught:
        experiment.complete(cfg)
    for text in ("cache_dtype: 'float8'", "cache_gigabytes: a number above 0", "cache_eval: True or False"):
        assert text in str(caught.value)


def test_numbers_too_large_for_float16_are_refused_with_the_setting_that_helps(settings):
    run = experiment.build_run(demo("dinosaur-shapes", "cache_eval=True"), settings, None)
    run.network.backbone.level_scale = [1e6] * len(run.network.backbone.level_dims)
    with pytest.raises(ConfigError, match="set it to float32"):
        next(iter(run.eval_batches()))


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (dict(keys=["image", "segment"], transforms=[dict(type="Resize", keys=["image"])]), []),
        (dict(keys=["image"], transforms=[dict(type="CenterCrop", keys=["image"])]), []),
        (
            dict(keys=["image", "segment"], transforms=[dict(type="CenterCrop", keys=["image", "segment"])]),
            [dict(type="CenterCrop", keys=["segment"])],
        ),
    ],
)
def test_labels_go_through_the_same_without_pictures(split, expected):
    reduced = cached.without_pictures(split)
    assert reduced["transforms"] == expected and "image" not in reduced["keys"]


def test_boxes_that_only_the_pictures_size_moves_keep_the_pictures():
    crop = dict(type="CenterCrop", keys=["video"])
    assert cached.without_pictures(dict(keys=["video", "box"], transforms=[crop])) is None
    assert cached.without_pictures(
        dict(keys=["video", "box", "segment"], transforms=[crop | dict(keys=["video", "segment"])])
    )


def test_pictures_are_drawn_though_batches_come_without(data, tmp_path):
    """From the command line: the cache lies where `--cache_dir` says, and nothing that is written differs."""
    drawn = []
    for kept in (False, True):
        words = ["--cfg_file", DEMO / "dinosaur-shapes.py", "--data_dir", data, "--save_dir", tmp_path / str(kept)]
        words += ["--cache_dir", tmp_path / "cache", "--device", "cpu", "--viz", 2]
        changes = ["batch_size=3", "precision=no", "total_steps=2", "eval_every=2", "cache_dtype=float32"]
        assert train_script.main([*map(str, words), *changes, f"cache_feature={kept}"]) == 0
        folder = tmp_path / str(kept) / "dinosaur-shapes" / "42" / "eval"
        found = json.loads((folder / "eval.json").read_text())
        drawn.append(((folder / "pictures.png").read_bytes(), found["scores"], found["images"]))
    assert drawn[0] == drawn[1]
    assert len([*(tmp_path / "cache").glob("feature-*")]) == 2
