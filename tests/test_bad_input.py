"""What users set wrong beside names and types: one message each, with the config path and the values."""

from types import SimpleNamespace

import pytest
import torch

from object_centric_bench import config, experiment, restore
from object_centric_bench.datum import moving_shapes, shapes
from object_centric_bench.experiment import Settings
from object_centric_bench.learn import checkpoint
from object_centric_bench.learn.checkpoint import CheckpointError
from object_centric_bench.learn.loop import train
from object_centric_bench.learn.run import compute_losses, named
from object_centric_bench.registry import ConfigError

from .conftest import REPOSITORY


def takes_resolution(path):
    try:
        config.load(path, resolution=256)
    except ConfigError:
        return False
    return True


SCALED = sorted(filter(takes_resolution, REPOSITORY.glob("config-*/[!_]*.py")))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    shapes.convert(folder / "shapes", num_train=4, num_val=2, size=64)
    moving_shapes.convert(folder / "moving_shapes", num_train=2, num_val=2, size=64)
    return Settings(folder, folder / "save", seed=1, device="cpu")


def demo(name, *overrides):
    cfg = config.load(REPOSITORY / "config-demo" / f"{name}.py", ["batch_size=2", "cache_feature=False", *overrides])
    return experiment.complete(cfg)


@pytest.mark.parametrize("path", SCALED, ids=lambda path: path.stem)
def test_a_resolution_that_no_grid_divides(path):
    with pytest.raises(ConfigError, match=r"resolution must be a multiple of (16|64) pixels .*, not 100"):
        config.load(path, ["resolution=100"])


@pytest.mark.parametrize("path", [path for path in SCALED if "-c4" in path.stem and "msf" not in path.stem])
def test_pictures_too_small_for_the_perceptual_loss(path):
    with pytest.raises(ConfigError, match=r"resolution 48 is too small for loss\.lpips.* 62 pixels are needed"):
        config.load(path, ["resolution=48"])
    assert config.load(path, ["resolution=64"])["loss"]["lpips"]["type"] == "LPIPS"


def test_what_a_loss_refuses_names_the_loss(settings):
    cfg = demo("dinosaur-shapes", "loss.recon.target=output.attention")
    run = experiment.build_run(cfg, settings, None)
    with pytest.raises(ConfigError, match=r"^loss\.recon: MSE: output\.reconstruction is \(2, \d+, 16, 16\) and "):
        train(run)


def test_what_the_model_refuses_names_what_it_was_given(settings):
    cfg = demo("vvo_tfd-shapes")
    run = experiment.build_run(cfg, settings, None)
    run.model.tokenizer.encoder.forward = lambda feature: feature[:, :3]
    with pytest.raises(ConfigError, match=r"^model: latent has shape .* \(given: image \(2, 3, \d+, \d+\)\)$"):
        train(run)


def test_clips_of_one_frame_have_no_next_one(settings):
    cfg = demo("videosaur-shapes")
    cfg["dataset"]["train"]["clip"] = {"type": "FixedClip", "stop": 1}
    run = experiment.build_run(cfg, settings, None)
    with pytest.raises(ConfigError, match=r"^loss\.similarity: similarity over 1 frames needs clips of more frames"):
        train(run)


def test_pictures_for_a_method_on_videos_and_the_reverse(settings):
    for name, other, text in (
        ("dinosaur-shapes", "videosaur-shapes", "DINOSAUR takes image, the dataset gives video"),
        ("videosaur-shapes", "dinosaur-shapes", "VideoSAUR needs 'video', but only image"),
    ):
        cfg = demo(name) | {"dataset": demo(other)["dataset"]}
        with pytest.raises(ConfigError, match=rf"^dataset\.train\.keys: {text}"):
            experiment.build_run(cfg, settings, None)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"num_codes": 64}, r"basis is \(16, 1024\), the model has \(64, 1024\)"),
        ({"basis_dim": 512}, r"basis is \(16, 1024\), the model has \(16, 512\)"),
    ],
)
def test_a_first_stage_of_another_width_or_number_of_codes(settings, changed, text):
    first = settings.save_dir / "best"
    if not first.exists():
        first.parent.mkdir()
        checkpoint.save(first, experiment.build_run(demo("vqshapes-k16"), settings, None).model, {"step": 1})
    cfg = demo("vvo_tfd-shapes", f"model.decoder.num_codes={changed.get('num_codes', 16)}")
    cfg["model"]["tokenizer"]["quantizer"] |= changed
    run = experiment.build_run(cfg, settings, None)
    with pytest.raises(CheckpointError, match=rf"does not fit this model:\n[^~]*shape: tokenizer\.quantizer\.{text}"):
        restore.load_pretrained(run, first)


def test_errors_of_the_program_stay_what_they_are():
    with pytest.raises(TypeError, match="broken"), named("model"):
        raise TypeError("broken")
    with pytest.raises(ConfigError, match=r"^as it is$"), named("model"):
        raise ConfigError("as it is")
    run = SimpleNamespace(loss={"a": lambda batch, output: torch.ones(())}, batch={}, output={})
    assert compute_losses(run) == {"a": torch.ones(())}
