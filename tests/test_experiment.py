"""From config to run: what is refused, what is driven, what is computed once."""

import numpy as np
import pytest
import torch

from object_centric_bench import config, engine, experiment, load, restore
from object_centric_bench.datum import shapes
from object_centric_bench.experiment import Settings
from object_centric_bench.learn.checkpoint import CheckpointError
from object_centric_bench.model import published
from object_centric_bench.registry import ConfigError

from .conftest import REPOSITORY

DEMO = REPOSITORY / "config-demo"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    shapes.convert(folder / "shapes", num_train=6, num_val=4, size=64)
    return Settings(folder, folder / "save", seed=1, device="cpu")


def demo(*overrides, name="dinosaur-shapes"):
    return experiment.complete(config.load(DEMO / f"{name}.py", ["batch_size=3", *overrides]))


def test_all_faults_of_a_config_are_named_at_once():
    cfg = config.load(DEMO / "dinosaur-shapes.py")
    cfg["dataset"]["batchsize"] = cfg["dataset"].pop("batch_size")
    cfg["optimiser"] = cfg.pop("optimizer")
    cfg["precision"] = "fp8"
    cfg["eval_every"] = 0
    cfg["model"]["decoder"]["dims"] = "wide"
    with pytest.raises(ConfigError) as caught:
        experiment.complete(cfg)
    text = str(caught.value)
    for expected in (
        "dataset.batchsize: unknown; did you mean 'batch_size'?",
        "dataset.batch_size: missing",
        "optimiser: unknown section; did you mean 'optimizer'?",
        "optimizer: missing",
        "precision: 'fp8'",
        "eval_every: a number of steps, 1 or more, not 0",
        "model.decoder.dims: BroadcastMLP wants list[int], got 'wide'",
    ):
        assert expected in text


def test_parts_that_do_not_fit_are_refused_with_their_path_and_sizes(settings):
    cfg = demo("model.decoder.grid=[8,8]")
    with pytest.raises(ConfigError, match=r"model.*grid is \[16, 16\] but decoder's grid is \[8, 8\]"):
        experiment.build_run(cfg, settings, None)


def test_freezing_and_scheduling_what_is_not_there_is_refused(settings):
    with pytest.raises(ConfigError, match="backbon"):
        experiment.build_run(demo(r"freeze=['backbon.*x']"), settings, None)
    cfg = demo(name="vqshapes")
    cfg["schedule"]["model"]["tokenizer"]["latent_mixture"] = cfg["schedule"]["model"]["tokenizer"].pop("latent_mix")
    with pytest.raises(ConfigError, match="did you mean 'latent_mix'"):
        experiment.build_run(cfg, settings, None)


def test_what_a_method_freezes_by_itself_has_to_be_told(settings):
    with pytest.raises(ConfigError) as caught:
        experiment.build_run(demo("freeze=[]", name="vvo_mlp-shapes"), settings, None)
    text = str(caught.value)
    assert text.startswith("freeze: VVOMlp freezes backbone and tokenizer by itself (")
    assert r"add 'backbone\\..*', 'tokenizer\\..*'; a backbone is trained by its argument trainable=True" in text
    cfg = demo("freeze=[]", "cache_feature=False")
    cfg["model"]["backbone"]["trainable"] = True
    network = experiment.build_run(cfg, settings, None).model
    assert all(parameter.requires_grad for parameter in network.backbone.parameters())


def test_schedules_drive_rates_relative_to_the_optimizer_and_numbers_of_the_model(settings):
    cfg = demo("optimizer.lr=0.5", "total_steps=40", name="vqshapes")
    run = experiment.build_run(cfg, settings, None)
    run.step = 2  # end of the warm-up
    from object_centric_bench.learn.run import apply_schedules

    apply_schedules(run)
    assert [group["lr"] for group in run.optimizer.param_groups] == [0.5]
    run.step = 20
    apply_schedules(run)
    assert run.model.tokenizer.latent_mix == 0.0
    assert run.model.tokenizer.quantizer.logit_scale == pytest.approx(2.35**0.5)


def test_cached_features_are_those_the_backbone_gives(settings):
    run = experiment.build_run(demo("precision=no", "cache_dtype=float32"), settings, None)
    (batch,) = [batch for batch in run.eval_batches() if 3 in batch["index"]]
    fresh = experiment.build_run(demo("precision=no", "cache_feature=False"), settings, None)
    (plain,) = [batch for batch in fresh.eval_batches() if 3 in batch["index"]]
    assert "feature" not in plain
    image = fresh.batch_transforms[0](dict(plain), None)["image"]
    torch.testing.assert_close(batch["feature"], fresh.model.backbone(image), rtol=1e-4, atol=1e-4)


def test_features_that_change_are_not_cached(settings):
    cfg = demo()
    cfg["dataset"]["train"]["transforms"].append(dict(type="RandomFlip", keys=["image", "segment"]))
    with pytest.raises(ConfigError, match=r"dataset\.train augments at random \(RandomFlip\)"):
        experiment.build_run(cfg, settings, None)


def test_precision_follows_the_device():
    assert experiment.make_accelerator("cpu", "no").mixed_precision == "no"
    expected = "bf16" if engine.native_bf16() else "no"
    assert experiment.make_accelerator("cpu", "auto").mixed_precision == expected
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        experiment.make_accelerator("cpu", "fp16")
    with pytest.raises(ConfigError, match="use auto, cpu or cuda"):
        experiment.make_accelerator("gpu", "auto")


def test_equal_seeds_give_equal_runs_and_others_do_not(settings):
    weights = []
    for seed in (1, 1, 2):
        run = experiment.build_run(demo(), Settings(settings.data_dir, settings.save_dir, seed, "cpu"), None)
        batch = next(iter(run.train_batches(0)))
        weights.append((run.model.projection.projection.layers[0].weight.detach().numpy(), batch["index"].tolist()))
    assert np.array_equal(weights[0][0], weights[1][0]) and weights[0][1] == weights[1][1]
    assert not np.array_equal(weights[0][0], weights[2][0])


@pytest.mark.parametrize(
    "name",
    ["vqdino/vqdino-coco-c256", "vqdino/vqdino_tfd_r-coco", "vqdino/vqdino_mlp_r-coco", "dinosaur/dinosaur_r-coco"],
)
def test_full_size_configs_build_without_pretrained_weights(name):
    from object_centric_bench.learn.optimizer import freeze
    from object_centric_bench.registry import build

    cfg = experiment.complete(config.load(REPOSITORY / f"config-{name}.py", pretrained=False))
    model = build(cfg["model"], "model")
    freeze(model, cfg["freeze"])
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    published = dict(
        zip(["c256", "tfd_r", "mlp_r", "dinosaur_r"], [5_768_195, 6_926_336, 11_913_345, 11_388_801], strict=True)
    )
    (expected,) = [count for part, count in published.items() if part in name]
    assert trainable == expected


def test_a_published_checkpoint_loads_by_name_and_another_methods_is_refused(settings, tmp_path):
    small = ["resolution=64", "pretrained=False", "precision=no", "model.backbone.name=vit_tiny_patch16_224"]
    small += ["model.backbone.resolution=[64,64]", "model.projection.dims=[192,64,256]"]
    cfg = config.load(REPOSITORY / "config-dinosaur/dinosaur_r-coco.py", small)
    cfg["model"]["decoder"]["dims"] = [256, 32, 192]
    cfg["dataset"] = demo()["dataset"]
    run = experiment.build_run(experiment.complete(cfg), settings, None)
    theirs = {}
    for name, tensor in run.model.state_dict().items():
        for upstream, ours in published.names(run.model).items():
            if ours.endswith("*") and name.startswith(ours[:-1]):
                theirs[upstream[:-1] + name[len(ours) - 1 :]] = torch.randn_like(tensor)
            elif ours == name and "_pe" not in upstream:
                theirs[upstream] = torch.randn_like(tensor)
    torch.save(theirs, tmp_path / "published.pth")
    restore.load_weights(run, tmp_path / "published.pth")
    assert torch.equal(run.model.slot_attention.to_query.weight, theirs["m.aggregat.proj_q.weight"])
    assert torch.equal(run.model.decoder.position.embedding, theirs["m.decode.posit_embed.pe"])
    with pytest.raises(ConfigError, match=r"does not hold its config, .*; it is a published checkpoint of DINOSAUR$"):
        load(tmp_path / "published.pth")
    theirs["m.mediat.quant.codebook.weight"] = torch.zeros(1)
    torch.save(theirs, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"^\S+other\.pth: .*\nunexpected: m\.mediat\.quant\.codebook\.weight"):
        restore.load_weights(run, tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("accumulate=0", "accumulate: a whole number, 1 or more, not 0"),
        ("max_not_finite=0", "max_not_finite: a whole number, 1 or more, not 0"),
        ("micro_batch=half", "micro_batch: a number of samples, 1 or more, 'auto' or None, not 'half'"),
        ("micro_batch=-1", "micro_batch: a number of samples, 1 or more, 'auto' or None, not -1"),
    ],
)
def test_how_a_batch_goes_through_the_model_is_checked(option, text):
    with pytest.raises(ConfigError, match=text):
        demo(option)
    with pytest.raises(ConfigError, match="set one of them"):
        demo("micro_batch=auto", "accumulate=2")
    assert demo("micro_batch=auto")["micro_batch"] == "auto"
    assert demo("micro_batch=2")["micro_batch"] == 2
