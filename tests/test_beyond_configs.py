"""SPOT, VVO-Tfd9, VideoSAUR and VVO-SmdT: every number of their configs, and evaluation in all nine orders.

Numbers: spec/methods-beyond.md, 1.2, 1.3, 1.7, 1.9, 2, 3.7 and 4; but SPOT's backbone is that of the other methods
here, without registers. The papers' own setting of VideoSAUR is in `test_videosaur_configs`.
"""

import pytest
import torch

from object_centric_bench import config, experiment
from object_centric_bench.registry import build

from .model.full_size import FILES, full_size
from .test_published_configs import argument

NINE = {"model.decoder.train_order": "random", "model.decoder.eval_order": "standard"}
FEATURES = {"loss.recon.prediction": "output.reconstruction", "loss.recon.target": "output.feature"}
CODES = {"model.sample_codes": True, "model.tokenizer.quantizer.num_codes": 4096, "model.tokenizer.encoder.dim": 256}
BLOCKS = [8, 9, 10, 11]  # that the student of SPOT trains


def schedule(lr, batch_size, steps, warmup, clip, norm=2.0, precision="auto"):
    """Return the leaves that say how a method learns; every one falls to a thousandth along a cosine."""
    factor = {"type": "LinearCosine", "warmup_steps": warmup, "total_steps": steps}
    factor |= {"start": 0.0, "peak": 1.0, "final": 1e-3}
    return {
        "optimizer": {"type": "Adam", "lr": lr},
        "schedule": {"optimizer": {"lr_factor": factor}},
        "dataset.batch_size": batch_size,
        "total_steps": steps,
        "max_grad_norm": clip,
        "grad_norm_type": norm,
        "precision": precision,
    }


def scored(mask, size, from_step):
    """Return the leaves that say which masks are scored, at which size, and from when on a checkpoint may be best."""
    return {
        "callback.0.mask": mask,
        "callback.0.size": [size, size],
        "callback.2.best": "mbo",
        "callback.2.from_step": from_step,
    }


def slot_attention(**values):
    return {f"model.slot_attention.{key}": value for key, value in values.items()}


def spot(num_slots, steps, paper=False):
    """Return what both stages of SPOT share."""
    width, name = (768, "vit_base_patch16_224.dino") if paper else (384, "vit_small_patch14_dinov2.lvd142m")
    activation = "relu" if paper else "gelu"
    decoder = {"dim": width, "slot_dim": 256, "num_layers": 4, "num_heads": 6 if paper else 4, "hidden_dim": None}
    decoder |= {"bias": paper, "final_norm": paper, "activation": activation, "dropout": 0.0, "position": None}
    decoder |= {"xavier": paper, "grid": [14, 14] if paper else [16, 16]}
    return {
        **(
            schedule(4e-4, 64, steps, 9240, 0.3, "inf", "no")
            if paper
            else schedule(2e-4, 32, steps, steps // 20, 0.3, "inf")
        ),
        **scored("output.mask", 320 if paper else 256, steps if paper else steps // 2),
        **FEATURES,
        **NINE,
        **{f"model.decoder.{key}": value for key, value in decoder.items()},
        **slot_attention(dim=256, input_dim=width, hidden_dim=1024, num_iterations=3, dropout=0.0),
        **slot_attention(activation=activation, epsilon=1e-8 if paper else 1e-5),
        "model.backbone.name": name,
        "model.backbone.resolution": [224, 224],
        "model.backbone.final_norm": False,
        "model.projection": {"type": "MLP", "dims": [width] * 3, "norm": True, "activation": activation},
        "model.xavier": paper,
        "model.initializer.num_slots": num_slots,
        "model.initializer.dim": 256,
        "cache_feature": False,
    }


def first(num_slots, steps, paper=False):
    """Return the settings of SPOT's first stage."""
    own = {"model.type": "SPOT", "model.initializer.type": "SharedGaussian", "model.slot_attention.bilevel": False}
    return spot(num_slots, steps, paper) | own | {"pretrain": None, "freeze": [r"backbone\..*"]}


def second(data, num_slots, steps, paper=False):
    """Return the settings of SPOT's second stage."""
    config, copied = f"spot_r-{data}{'-paper' if paper else ''}.py", ["projection", "slot_attention", "decoder"]
    return spot(num_slots, steps, paper) | {
        "model.type": "SPOTDistill",
        "model.initializer.type": "LearnedSlots",
        "model.slot_attention.bilevel": True,
        "model.backbone.trainable": True,
        "model.shared_blocks": 8,
        "model.teacher.type": "SPOT",
        "model.teacher.backbone.name": spot(num_slots, steps, paper)["model.backbone.name"],
        "model.teacher.backbone.final_norm": False,
        "model.teacher.initializer.type": "SharedGaussian",
        "model.teacher.decoder.eval_order": "random",
        "loss.distillation.type": "MatchedDistillation",
        "loss.distillation.prediction": "output.attention_logits",
        "loss.distillation.teacher": "output.teacher_mask",
        "loss.distillation.weight": 0.005,
        "pretrain.config": config,
        "pretrain.modules": {"teacher": "", "backbone": "backbone"}
        | ({} if paper else {part: part for part in copied}),
        "parameter_groups": [{"pattern": r"backbone\..*", "lr_scale": 1.0}],
    }


def tfd9(data, num_slots):
    """Return the settings of VVO-Tfd9."""
    return {
        **schedule(2e-4, 32, 50_000, 2500, 1.0),
        **scored("output.mask", 256, 25_000),
        **NINE,
        **CODES,
        **slot_attention(dim=256, hidden_dim=1024, num_iterations=3, bilevel=True),
        "loss.recon": {"type": "CrossEntropy", "prediction": "output.logits", "target": "output.code"},
        "model.type": "VVOTfd9",
        "model.backbone.final_norm": True,
        "model.decoder.type": "NineOrderTransformer",
        "model.decoder.dim": 256,
        "model.decoder.num_codes": 4096,
        "model.decoder.num_layers": 4,
        "model.decoder.num_heads": 4,
        "model.decoder.dropout": 0.0,
        "model.initializer.num_slots": num_slots,
        "pretrain.config": f"vqdino-{data}-c256.py",
        "pretrain.modules": ["tokenizer.encoder", "tokenizer.quantizer"],
        "freeze": [r"backbone\..*", r"tokenizer\..*"],
    }


def mixed(num_slots, width):
    """Return what VideoSAUR and VVO-SmdT share."""
    similarity = {"type": "TemporalSimilarity", "prediction": "output.similarity", "feature": "output.key"}
    similarity |= {"temperature": 0.15, "threshold": 0.0, "shift": 1, "weight": 0.1}
    return {
        **schedule(5e-5, 8, 50_000, 2500, 0.05),
        **scored("output.mask", 256, 25_000),
        **slot_attention(dim=64, hidden_dim=0, first_iterations=3, num_iterations=2, normalize_state=True),
        **slot_attention(bilevel=False, epsilon=1e-8),
        "dataset.train.clip.size": 6,
        "dataset.train.keys": ["video", "segment"],
        "loss.similarity": similarity,
        "model.keys": True,
        "model.backbone.name": "vit_small_patch14_dinov2.lvd142m",
        "model.initializer": {"type": "SharedGaussian", "num_slots": num_slots, "dim": 64, "std": 0.125},
        "model.predictor": {"type": "PreNormBlock", "dim": 64, "num_heads": 4, "published_scale": False},
        "model.projection": {"type": "MLP", "dims": [384, 768, 64], "norm": True, "activation": "relu"},
        "model.decoder.dims": [64, 1024, 1024, 1024, 1024, width],
        "model.decoder.grid": [16, 16],
        "model.decoder.num_layers": 2,
        "model.decoder.num_heads": 4,
        "model.decoder.published_scale": False,
        "model.decoder.position": None,
    }


def videosaur(num_slots):
    """Return the settings of VideoSAUR."""
    own = {"model.type": "VideoSAUR", "model.backbone.final_norm": False, "model.reconstruct": True, "pretrain": None}
    return mixed(num_slots, 384 + 256) | FEATURES | own | {"freeze": [r"backbone\..*"]}


def smdt(data, num_slots):
    """Return the settings of VVO-SmdT."""
    return {
        **mixed(num_slots, 256 + 384 + 256),
        **CODES,
        "loss.quantized.prediction": "output.quantized_reconstruction",
        "loss.quantized.target": "output.quantized",
        "loss.quantized.weight": 1.0,
        "loss.feature.prediction": "output.feature_reconstruction",
        "loss.feature.target": "output.feature",
        "loss.feature.weight": 1.0,
        "model.type": "VVOSmdT",
        "model.backbone.final_norm": True,  # as its first stage has it
        "pretrain.config": f"vqdino-{data}-c256.py",
        "freeze": [r"backbone\..*", r"tokenizer\..*"],
    }


IMAGES = {"coco": (7, 100_000), "voc": (6, 50_000), "clevrtex": (11, 50_000)}
VIDEOS = {"movi_c": 11, "movi_d": 15, "movi_e": 15}
SETTINGS = {
    **{f"spot_r-{data}": first(*sizes) for data, sizes in IMAGES.items()},
    **{f"spot_r-{data}-distill": second(data, *sizes) for data, sizes in IMAGES.items()},
    "spot_r-coco-paper": first(7, 92_400, paper=True),
    "spot_r-coco-paper-distill": second("coco", 7, 92_400, paper=True),
    **{f"vqdino_tfd9_r-{data}": tfd9(data, num_slots) for data, (num_slots, _) in IMAGES.items()},
    **{f"videosaur_r-{data}": videosaur(num_slots) for data, num_slots in VIDEOS.items()},
    **{f"vqdino_smdt_r-{data}": smdt(data, num_slots) for data, num_slots in VIDEOS.items()},
}


def setting(cfg, path):
    """Return what stands at a path of a config: a leaf, a section, or the default of an argument that is left out."""
    *steps, last = path.split(".")
    for step in steps:
        cfg = cfg[int(step)] if isinstance(cfg, list) else cfg[step]
    return argument(cfg, last) if "type" in cfg else cfg[last]


@pytest.mark.parametrize("name", SETTINGS)
def test_the_setting_number_by_number(name):
    cfg = experiment.complete(config.load(FILES[name]))
    expected = SETTINGS[name]
    assert {path: setting(cfg, path) for path in expected} == expected


def test_no_config_of_these_methods_is_left_out():
    kinds = ("spot_r-", "videosaur_r-", "vqdino_tfd9_r-", "vqdino_smdt_r-")
    papers = {f"videosaur_r-{data}-paper" for data in ("movi_c", "movi_e")}
    assert {name for name in FILES if name.startswith(kinds)} == SETTINGS.keys() | papers


@pytest.mark.parametrize("name", [name for name in SETTINGS if name.endswith("-distill")])
def test_the_student_trains_its_last_four_blocks_and_all_around_them(name):
    model = full_size(name)
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(key.startswith("teacher.") for key in trained)
    own, teachers = model.backbone.model.blocks, model.teacher.backbone.model.blocks
    assert len(own) == 12 and [index for index in range(12) if own[index] is not teachers[index]] == BLOCKS
    last = {f"backbone.model.blocks.{index}.{key}" for index in BLOCKS for key, _ in own[index].named_parameters()}
    assert {key for key in trained if key.startswith("backbone.")} == last
    around = {key for key, _ in model.named_parameters() if not key.startswith(("teacher.", "backbone."))}
    assert trained - last == around


@pytest.mark.parametrize("name", ["spot_r-coco", "spot_r-voc-distill", "spot_r-coco-paper", "vqdino_tfd9_r-coco"])
def test_evaluation_in_all_orders_is_the_mean_over_the_nine(name, monkeypatch):
    """ "w/ ensemble" of the paper; a student's teacher goes on to draw one order per batch."""
    cfg = experiment.complete(config.load(FILES[name], ["model.decoder.eval_order=all"]))
    if "teacher" in cfg["model"]:
        assert cfg["model"]["teacher"]["decoder"]["eval_order"] == "random"
    torch.manual_seed(0)
    decoder = build(cfg["model"]["decoder"] | {"grid": [3, 2]}, "decoder").eval()
    width = decoder.dim if name.startswith("vqdino") else decoder.output_dim
    source, slots = torch.randn(1, width, 3, 2), torch.randn(1, 3, decoder.dim)
    with torch.no_grad():
        found = decoder(source, slots)
        each = []
        for order in range(9):
            monkeypatch.setattr(decoder.orders, "choose", lambda order=order: [order])
            each.append(decoder(source, slots))
    for whole, parts in zip(found, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.stack(parts).mean(dim=0))
        assert not torch.allclose(whole, parts[0], atol=1e-4)


def test_a_stored_config_is_evaluated_in_all_orders_too():
    """What `eval.py --ckpt_file RUN model.decoder.eval_order=all` does."""
    stored = config.load(FILES["spot_r-coco-distill"])
    assert config.override(stored, ["model.decoder.eval_order=all"])["model"]["decoder"]["eval_order"] == "all"
