"""VideoSAUR's configs: the paper's own setting on MOVi, number by number, and that such a model runs."""

import pytest
import torch

from object_centric_bench import config, experiment
from object_centric_bench.registry import build

from .conftest import REPOSITORY
from .model.full_size import full_size

FOLDER = REPOSITORY / "config-videosaur"


@pytest.mark.parametrize(("data", "num_slots"), [("movi_c", 11), ("movi_e", 15)])
def test_the_papers_setting(data, num_slots):
    """Numbers: spec/methods-beyond.md, 3.1 to 3.5."""
    cfg = config.load(FOLDER / f"videosaur_r-{data}-paper.py")
    model, backbone = cfg["model"], cfg["model"]["backbone"]
    assert (backbone["name"], backbone["resolution"]) == ("vit_base_patch8_224.dino", [224, 224])
    assert (backbone["level"], backbone["final_norm"], model["keys"]) == (-1, False, True)
    assert (model["initializer"]["num_slots"], model["initializer"]["dim"]) == (num_slots, 128)
    assert model["initializer"]["std"] == pytest.approx(128**-0.5)
    attention = model["slot_attention"]
    assert (attention["first_iterations"], attention["num_iterations"], attention["hidden_dim"]) == (3, 2, 0)
    assert model["projection"]["dims"] == [768, 1536, 128]
    assert model["predictor"]["published_scale"] and model["decoder"]["published_scale"]  # its numbers depend on that
    (loss,) = cfg["loss"].values()
    assert loss == dict(
        type="TemporalSimilarity",
        prediction="output.similarity",
        feature="output.key",
        temperature=0.075,
        threshold=0.0,
        shift=1,
        weight=0.1,
    )
    assert (cfg["dataset"]["batch_size"], cfg["optimizer"]) == (128, {"type": "Adam", "lr": 4e-4})
    assert (cfg["total_steps"], cfg["max_grad_norm"], cfg["grad_norm_type"], cfg["precision"]) == (10**5, 0.05, 2, "no")
    factor = build(cfg["schedule"]["optimizer"]["lr_factor"], "factor")
    steps = {0: 0, 1250: 0.5, 2500: 1, 51_250: 0.7071, 100_000: 0.5}
    assert [factor(step) for step in steps] == pytest.approx(list(steps.values()), abs=1e-4)
    train = cfg["dataset"]["train"]
    assert train["clip"] == {"type": "RandomClip", "size": 4, "aligned": True}
    assert train["keys"] == ["video", "segment"]
    kinds = [(each["type"], each.get("size"), each.get("mode")) for each in train["transforms"]]
    assert kinds[0] == ("Resize", [224, 224], "bicubic") and kinds[2][0] == "RandomFlip" and len(kinds) == 3


def test_the_papers_decoder_has_its_number_of_parameters():
    model = full_size("videosaur_r-movi_c-paper")
    assert model.decoder.grid == [28, 28]
    count = sum(parameter.numel() for parameter in model.decoder.parameters())
    assert count == pytest.approx(4.6e6, rel=0.02)
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())


def test_a_model_of_similarity_only_runs_and_every_part_learns():
    cfg = config.load(FOLDER / "videosaur_r-movi_c-paper.py", ["pretrained=False", "num_slots=3"])
    part = cfg["model"]
    part["backbone"] |= dict(name="vit_tiny_patch16_224", resolution=[64, 64], options=dict(depth=1))
    part["projection"]["dims"] = [192, 64, 128]
    part["decoder"] |= dict(grid=[4, 4], dims=[128, 32, 16])
    cfg = experiment.complete(cfg)
    torch.manual_seed(0)
    model = build(cfg["model"], "model")
    output = model(video=torch.randn(2, 4, 3, 64, 64))
    assert output["similarity"].shape == (2, 4, 16, 4, 4)
    assert output["reconstruction"].shape[2] == 0
    build(cfg["loss"], "loss")["similarity"]({}, output).backward()
    still = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert not still
