"""Every config of both papers, value by value against the facts gathered from the original files."""

import inspect
import json
import re
from functools import cache

import pytest

from object_centric_bench import config, experiment  # which registers the classes
from object_centric_bench.registry import CLASSES

from .conftest import REPOSITORY, SHARED, require

FACTS = SHARED / "spec" / "configs.json"
KEYS = {"segment": "masks", "box": "boxes"}  # ours to theirs, where they differ
TENSORS = {
    "feature": "features",
    "code": "code_indices",
    "latent": "latents",
    "mixed": "mixed_latents",
    "attention": "attn_maps",
    "mask": "decoder_masks",
}
DATASETS = {"clevrtex": "ClevrTex", "coco": "COCO", "voc": "VOC", "movi_d": "MOVi"}
METHODS = {name: name.replace("VVO", "VVO-") for name in ("VVOTfd", "VVOMlp", "VVODfz", "VVOTfdT")}
CODES = {"GroupedCodebook": "+GDR", "MultiScaleTokenizer": "+MSF"}
KINDS = {"LearnedCodebook": "vqvae", "ProjectedCodebook": "simvq_vae", "GroupedCodebook": "grouped_simvq_vae"}
GATHERED = [
    "method", "dataset", "eval_dataset", "image_size", "grid", "num_slots", "slot_dim", "feature_dim", "num_codes",
    "code_dim", "train", "train_transforms", "val_transforms", "model", "losses", "metrics", "schedules",
    "segmentation", "frozen", "taken",
]  # fmt: skip


@cache
def facts():
    """Return the published configs and the shared part, or nothing where the file is missing."""
    if not FACTS.is_file():
        return [], {}
    content = json.loads(FACTS.read_text())
    return content["configs"], content["about"]["shared"]


def file_of(entry):
    """Return our file of a published config."""
    folder = REPOSITORY / entry["file"]
    if entry["name"].endswith(("-gdr", "-msf")):
        return REPOSITORY / "config-msf" / folder.name
    return folder


def test_facts_are_there():
    require(FACTS)
    assert len(facts()[0]) == 56


@pytest.mark.parity
@pytest.mark.parametrize("entry", facts()[0], ids=lambda entry: f"{entry['repo'][9:12]}-{entry['name']}")
def test_equals_the_published_config(entry):
    ours = Description(config.load(file_of(entry)))
    for key in GATHERED:
        expected = getattr(Expected(entry), key)()
        assert getattr(ours, key)() == expected, key


class Expected:
    """What a published config says, in the terms of the facts, less what another version words differently."""

    def __init__(self, entry):
        self.entry = entry

    def __getattr__(self, key):
        return lambda: self.entry.get(key)

    def method(self):
        """Return the method, or of a first stage, several methods' own, what it tokenizes."""
        if self.entry["stage"] != 1:
            return self.entry["method"]
        return "VQDINO" if self.entry["name"].startswith("vqdino") else "VQVAE"

    def eval_dataset(self):
        return self.dataset()

    def dataset(self):
        known = dict(self.entry["dataset"])
        known.pop("mask_format", None)  # label maps here, whatever the version
        if known["load"] in (["image"], ["video"]):
            known.pop("labels", None)  # without masks it says nothing
        return known | {"load": sorted(known["load"])}

    def train(self):
        known = dict(self.entry["train"])
        known.pop("val_frames", None)
        return known

    def losses(self):
        return {loss_key(loss): loss for loss in map(plain_loss, self.entry["losses"].values())}

    def schedules(self):
        return sorted((plain_schedule(each) for each in self.entry["schedules"]), key=lambda each: each["target"])

    def frozen(self):
        """Return which of our modules' parameters are frozen, as far as patterns name them."""
        return sorted({FROZEN[re.sub(r"^\^", "", pattern)] for pattern in self.entry["frozen_regex"]})

    def taken(self):
        """Return the parts of the tokenizer that a second stage loads."""
        found = self.entry.get("init_from")
        return found and sorted({TAKEN[target.rstrip(".").rsplit(".")[-1]] for target, _ in found})

    def model(self):
        return self.entry["model"]

    def metrics(self):
        return self.entry.get("metrics") and sorted(self.entry["metrics"]["val"])


FROZEN = {
    r"m\.encode_backbone\..*": "backbone",
    r"m\.mediat\..*": "tokenizer",
    r"m\.encode\.1\.(?:[0-9]|10)\..*": "tokenizer.encoder.taesd 0-10",
}
TAKEN = {"encode": "encoder", "codebook": "codes", "quant": "codes"}


def plain_loss(loss):
    """Return a published loss less what follows from its kind: constant targets, resized to the output's size."""
    ops = [op for op in loss.get("ops", []) if op["op"] not in ("detach", "merge_batch_time")]
    sizes = [op.pop("size") for op in (dict(op) for op in ops) if op["op"] == "resize"]
    if any(op["op"] == "group_norm" for op in ops):
        return {"type": "norm", "input": loss["input"], "weight": loss["weight"]}
    scale = loss["input"].partition(".")[2]
    target = f"resized {scale}" if sizes else loss["target"]
    known = {"type": loss["type"], "input": loss["input"], "target": target, "weight": loss["weight"]}
    for op in ops:
        if op["op"] == "slice":
            known["input"] += f"[{op['start']}:{op['end'] or ''}]"
    return known | ({"groups": loss["groups"]} if "groups" in loss else {})


def loss_key(loss):
    return (loss["type"], loss["input"], loss.get("target"))


def plain_schedule(schedule):
    known = dict(schedule)
    target = known["target"]
    if isinstance(target, list):  # one per codebook there, one for all here
        target = re.sub(r"\[\d+\]", "", target[0])
    if known["kind"] == "cosine_then_linear" and known["start"] == known["mid"] == known["final"]:
        return {"target": target, "kind": "constant", "value": known["start"]}
    return known | {"target": target}


class Description:
    """What a config of ours says, in the same terms."""

    def __init__(self, cfg):
        self.cfg = cfg
        self.parts = cfg["model"]
        self.tokens = self.parts.get("tokenizer")
        self.is_stage1 = "slot_attention" not in self.parts

    def method(self):
        codes = "" if self.is_stage1 or self.tokens is None else CODES.get(self.book_type(), "")
        return METHODS.get(self.parts["type"], self.parts["type"]) + codes

    def book_type(self):
        return self.tokens["type"] if "shared" in self.tokens else self.tokens["quantizer"]["type"]

    def dataset(self):
        return self.split("train")

    def eval_dataset(self):
        return self.split("eval")

    def split(self, name):
        split = self.cfg["dataset"][name]
        assert split["type"] == DATASETS[split["file"].partition("/")[0]]
        known = {
            "name": split["file"].partition("/")[0],
            "train": self.cfg["dataset"]["train"]["file"],
            "val": self.cfg["dataset"]["eval"]["file"],
            "load": sorted(KEYS.get(key, key) for key in split["keys"]),
        }
        return known | ({"labels": "instance"} if split.get("instance") else {})

    def image_size(self):
        return next(t["size"] for t in self.cfg["dataset"]["train"]["transforms"] if t["type"] == "Resize")

    def grid(self):
        resolution = self.parts.get("backbone", {}).get("resolution")
        return [side // 14 for side in resolution] if resolution else [side // 16 for side in self.image_size()]

    def num_slots(self):
        if self.is_stage1:
            return None
        if self.parts["initializer"]["type"] == "PerSlotGaussian":
            return self.parts["initializer"]["num_slots"]
        return next(t["size"] for t in self.cfg["dataset"]["train"]["transforms"] if t["type"] == "PadTo")

    def slot_dim(self):
        return None if self.is_stage1 else self.parts["slot_attention"]["dim"]

    def feature_dim(self):
        if "backbone" not in self.parts:
            return None
        assert self.parts["backbone"]["name"].startswith("vit_small")
        return 384

    def books(self):
        """Return (codes, channels, channels of the basis, logit scale) of every codebook."""
        if self.tokens["type"] == "MultiScaleTokenizer":
            scale = self.tokens["logit_scale"]
            return [
                (book["num_codes"], book["dim"], argument(book, "basis_dim"), scale)
                for book in (self.tokens["shared"], *self.tokens["quantizers"])
            ]
        book = self.tokens["quantizer"]
        if book["type"] == "GroupedCodebook":
            width = book["dim"] // len(book["num_codes"])
            return [(size, width, book["basis_dim"], book["logit_scale"]) for size in book["num_codes"]]
        if book["type"] == "LearnedCodebook":
            return [(book["num_codes"], book["dim"], None, None)]
        return [(book["num_codes"], book["dim"], argument(book, "basis_dim"), book["logit_scale"])]

    def num_codes(self):
        return None if self.tokens is None else single([book[0] for book in self.books()])

    def code_dim(self):
        return None if self.tokens is None else single([book[1] for book in self.books()])

    def train(self):
        data = self.cfg["dataset"]
        known = {
            "total_steps": self.cfg["total_steps"],
            "batch_size": data["batch_size"],
            "val_batch_size": data["eval_batch_size"],
            "workers": data["num_workers"],
            "optimizer": {"name": self.cfg["optimizer"]["type"].lower(), "lr": self.cfg["optimizer"]["lr"]},
            "clip_norm": self.cfg["max_grad_norm"],
            "val_every_steps": self.cfg["eval_every"],
            "save_from_step": next(each["from_step"] for each in self.cfg["callback"] if each["type"] == "Save"),
        }
        assert set(self.cfg["optimizer"]) == {"type", "lr"}  # no weight decay, default betas
        return known | ({"clip_frames": data["train"]["clip"]["size"]} if "clip" in data["train"] else {})

    def train_transforms(self):
        return self.transforms("train")

    def val_transforms(self):
        return self.transforms("eval")

    def transforms(self, split):
        data = self.cfg["dataset"]
        known = [self.clip(data[split])] if "clip" in data[split] else []
        listed = list(data[split]["transforms"])
        padding = [listed.pop()] if listed[-1]["type"] == "PadTo" else []  # theirs comes after normalising
        listed += [*data["batch_transforms"], *padding]
        return known + [self.transform(each, data[split]["keys"]) for each in listed]

    def clip(self, split):
        kind = "random_aligned_block" if split["clip"]["aligned"] else "random_window"
        keys = sorted(KEYS.get(key, key) for key in split["keys"])
        order = [key for key in ("video", "boxes", "masks") if key in keys]
        return {"op": kind, "keys": order, "axis": 0, "length": split["clip"]["size"]}

    def transform(self, node, keys):
        kind, chosen = node["type"], [KEYS.get(key, key) for key in node["keys"]]
        boxes = {"boxes": "boxes"} if "box" in keys else {}
        if kind == "RandomCrop":
            assert tuple(argument(node, "ratio")) == (3 / 4, 4 / 3)
            area = list(argument(node, "scale"))
            return {"op": "random_area_crop", "keys": chosen, "area": area, "aspect": "3/4..4/3", **boxes}
        if kind == "CenterCrop":
            return {"op": "center_square_crop", "keys": chosen, **boxes}
        if kind == "Resize":
            return {"op": "resize", "keys": chosen, "size": node["size"], "interp": node["mode"]}
        if kind == "RandomFlip":
            return {"op": "random_hflip", "keys": chosen, "p": node["p"], **boxes}
        if kind == "PadTo":
            return {
                "op": "pad_to",
                "keys": chosen,
                "axis": node["axis"],
                "length": node["size"],
                "value": argument(node, "value"),
            }
        shared = facts()[1]["imagenet_255"]
        assert (node["mean"], node["std"]) == (shared["mean"], shared["std"])
        return {"op": "normalize", "keys": chosen, "stats": "imagenet_255"}

    def model(self):
        known = {}
        if "backbone" in self.parts:
            node = self.parts["backbone"]
            scale = node["resolution"][0] / self.image_size()[0]
            known["backbone"] = {
                "type": "dinov2_vit",
                "timm_name": node["name"],
                "pre_resize": {"scale": scale, "interp": argument(node, "interpolation"), "antialias": False},
                "input_size": single(sorted(set(node["resolution"]))),
                "final_norm": argument(node, "final_norm"),
                "tokens": self.grid(),
            }
        if not self.is_stage1:
            known |= self.slots()
        if self.tokens is not None:
            known["tokenizer"] = self.tokenizer()
        if "decoder" in self.parts:
            known["decoder"] = self.decoder()
        return known

    def slots(self):
        projection, initializer = self.parts["projection"], self.parts["initializer"]
        attention = self.parts["slot_attention"]
        if projection.get("norm"):
            act, dropout = (argument(projection, key) for key in ("activation", "dropout"))
            project = {"type": "mlp", "dims": projection["dims"], "pre_norm": True, "act": act, "dropout": dropout}
        else:
            assert projection["activation"] is None
            project = {"type": "linear_dropout_linear", "dims": projection["dims"], "dropout": projection["dropout"]}
        dim = initializer["dim"]
        if initializer["type"] != "BoxMLP":
            assert initializer["type"] == "PerSlotGaussian"
            start = {"type": "per_slot_gaussian", "num_slots": initializer["num_slots"], "dim": dim}
        else:
            hidden = argument(initializer, "hidden_dim") or dim
            start = {"type": "box_mlp", "dims": [4, hidden, dim], "pre_norm": False, "act": "gelu", "dropout": 0}
        known = {
            "feature_proj": project,
            "slot_init": start,
            "slot_attention": {
                "iterations": attention["num_iterations"],
                "dim": attention["dim"],
                "mlp_dim": attention["hidden_dim"],
                "mlp_dropout": argument(attention, "dropout"),
                "bilevel": attention["bilevel"],
                "eps": argument(attention, "epsilon"),
            },
        }
        if "predictor" in self.parts:
            node = self.parts["predictor"]
            known["slot_predictor"] = {
                "type": "transformer_encoder_layer",
                "dim": node["dim"],
                "heads": node["num_heads"],
                "mlp_dim": node["hidden_dim"],
                "dropout": argument(node, "dropout"),
                "act": "gelu",
                "pre_norm": False,
                "bias": False,
            }
        return known

    def tokenizer(self):
        multi = self.tokens["type"] == "MultiScaleTokenizer"
        name = "multiscale_simvq_vae" if multi else KINDS[self.tokens["quantizer"]["type"]]
        books = [self.book(*book) for book in self.books()]
        known = {
            "type": name,
            "encoder": self.encoder(),
            "decoder": self.image_decoder(),
            "quantizer": books if name.startswith(("multi", "grouped")) else books[0],
        }
        if name != "vqvae":
            known["latent_mix"] = argument(self.tokens, "latent_mix")
        if name.startswith(("multi", "grouped")):
            known |= {"pinv_projection": None, "continuous_target": self.parts.get("continuous_target", False)}
        if name.startswith("multi"):
            known |= {"num_scales": len(self.tokens["quantizers"]), "scale_select_tau": 0}
        return known

    def book(self, num_codes, dim, basis_dim, logit_scale):
        if logit_scale is None:
            return {"type": "learned_codebook", "num_codes": num_codes, "code_dim": dim}
        known = {"type": "projected_codebook", "num_codes": num_codes, "code_dim": dim, "basis_dim": basis_dim}
        return known | {"logit_scale": logit_scale}

    def encoder(self):
        node = self.tokens["encoder"]
        if node["type"] == "ImageEncoder":
            assert "width" not in node  # TAESD's own
            return {
                "type": "taesd_encoder",
                "pre_resize": {"scale": 0.5, "interp": "bicubic", "antialias": False},
                "taesd_layers": [0, 14],
                "group_norm": [1, 64],
                "conv1x1": [64, node["dim"]],
            }
        width = node["input_dim"]
        return {
            "type": "feature_cnn",
            "channels": [width] * 4,
            "kernels": [3, 3, 3],
            "strides": [1, 1, 1],
            "group_norm_groups": 1,
            "act": "silu",
            "post_group_norm": [1, width],
            "conv1x1": [width, node["dim"]],
        }

    def image_decoder(self):
        node = self.tokens.get("decoder")
        if node is None:
            return None
        if node["type"] == "PlainImageDecoder":
            conv, layers = [node["dim"], 64], [[2, 19]]
            return {"type": "taesd_decoder", "conv1x1": conv, "group_norm": [1, 64], "taesd_layers": layers}
        hidden = node["hidden_dim"]
        return {
            "type": "pixelshuffle_taesd_decoder",
            "conv1x1": [node["dim"], hidden],
            "cnn": {
                "channels": [hidden, hidden, node["width"], node["width"]],
                "kernels": [1, 1, 1],
                "strides": [1, 1, 1],
                "pixel_shuffle": [False, True, False],
                "group_norm_groups": 1,
                "act": "silu",
            },
            "group_norm": [1, node["width"]],
            "act": "silu",
            "taesd_layers": [[2, 5], [6, 19]],
        }

    def decoder(self):
        node = self.parts["decoder"]
        length = node["grid"][0] * node["grid"][1]
        if node["type"] == "AutoregressiveTransformer":
            return {
                "type": "ar_transformer",
                "grid": node["grid"],
                "dim": node["dim"],
                "pos_embed": [length],
                "layers": node["num_layers"],
                "heads": argument(node, "num_heads"),
                "mlp_dim": node.get("hidden_dim") or 4 * node["dim"],
                "dropout": argument(node, "dropout"),
                "act": "gelu",
                "pre_norm": True,
                "bias": False,
                "final_norm": False,
                "head": [node["dim"], node["num_codes"]],
                "head_bias": False,
            }
        if node["type"] == "BroadcastMLP":
            dims = [*node["dims"][:-1], node["dims"][-1] + 1]  # the mask
            return {"type": "broadcast_mlp", "pos_embed": [length], "dims": dims, "act": "gelu", "dropout": 0}
        unet = facts()[1]["slotdiffusion_unet"]
        assert node["widths"] == unet["block_out_channels"] and node["dim"] == unet["cross_attention_dim"]
        assert node["latent_dim"] == unet["in_channels"] == unet["out_channels"]
        assert all(argument(node, key) == unet[key] for key in ("layers_per_block", "dropout"))
        return {
            "type": "conditional_diffusion",
            "noise": {
                "schedule": "scaled_linear",
                "beta_start": argument(node, "beta_start"),
                "beta_end": argument(node, "beta_end"),
                "steps": argument(node, "num_steps"),
                "predicts": "epsilon",
            },
            "unet": "shared.slotdiffusion_unet",
        }

    def losses(self):
        found = [self.loss(node) for node in self.cfg["loss"].values()]
        return {loss_key(loss): loss for loss in found}

    def loss(self, node):
        kind, weight = node["type"], argument(node, "weight")
        if kind == "UnitNorm":
            assert argument(node, "joint") == ("video" in self.cfg["dataset"]["train"]["keys"])
            return {"type": "norm", "input": self.path(node["prediction"]), "weight": weight}
        names = {"MSE": "mse", "CrossEntropy": "cross_entropy", "LPIPS": "lpips"}
        known = {
            "type": "grouped_cross_entropy" if "groups" in node else names[kind],
            "input": self.path(node["prediction"]),
            "target": self.path(node["target"]),
            "weight": weight,
        }
        return known | ({"groups": node["groups"]} if "groups" in node else {})

    def path(self, text):
        origin, key, *rest = text.split(".")
        if origin == "batch":
            assert key == "target"
            return f"resized {'.'.join(rest)}"
        mlp = self.parts["type"] == "VVOMlp"
        if key in ("quantized_reconstruction", "feature_reconstruction") and mlp:
            width = self.tokens["quantizer"]["dim"]
            return f"prediction[0:{width}]" if key.startswith("quantized") else f"prediction[{width}:]"
        if key == "reconstruction" and not self.is_stage1:
            key = "prediction"
        if key == "prediction" and self.parts["type"] in ("SlotDiffusion", "VVODfz"):
            key = "noise_pred"
        if key == "mixed" and self.tokens["type"] == "Tokenizer" and self.books()[0][3] is None:
            key = "quantized"  # of a learned codebook they are one
        return ".".join([TENSORS.get(key, key), *rest])

    def metrics(self):
        if not self.cfg["metric"]:
            return None
        (node,) = self.cfg["metric"]
        known = {"prediction": "output.segment", "target": "batch.segment", "ignore": None}
        assert all(argument(node, key) == value for key, value in known.items())
        return sorted(score for score in argument(node, "scores") if score not in ("mbo_fg", "miou_fg"))

    def kept(self):
        """Return the measure of the best checkpoint, which must be one that is reported."""
        (save,) = [each for each in self.cfg["callback"] if each["type"] == "Save"]
        reported = self.cfg["loss"].keys() if self.is_stage1 else self.metrics()
        return save["best"] in reported and save["higher"] == (not self.is_stage1)

    def target(self):
        """Return of what pictures the reconstruction's target is made."""
        found = [argument(each, "image") for each in self.cfg["callback"] if each["type"] == "ReconstructionTarget"]
        return found if found else None

    def schedules(self):
        return sorted(self.walk(self.cfg["schedule"], []), key=lambda each: each["target"])

    def walk(self, node, path):
        if "type" not in node:
            return [found for key, child in node.items() for found in self.walk(child, [*path, key])]
        values = {key: value for key, value in node.items() if key != "type"}
        target = ".".join(path).removeprefix("model.")
        if target == "optimizer.lr_factor":
            assert node["type"] == "LinearCosine"
            lr = self.cfg["optimizer"]["lr"]
            values |= {key: pytest.approx(lr * values[key]) for key in ("start", "peak", "final")}
            return [{"target": "lr", "kind": "linear_warmup_cosine", **values}]
        if self.tokens["type"] == "MultiScaleTokenizer" and target.endswith("logit_scale"):
            assert target == "tokenizer.logit_scale"  # of all its codebooks
            target = "tokenizer.quantizer.logit_scale"
        if node["type"] == "Constant":
            return [{"target": target, "kind": "constant", "value": values["value"]}]
        if node["type"] == "LogCosine":
            return [{"target": target, "kind": "log_cosine", **values}]
        assert node["type"] == "CosineLinear"
        values["mid"] = values.pop("middle")
        return [{"target": target, "kind": "cosine_then_linear", "final": 0, **values}]

    def segmentation(self):
        node = next((each for each in self.cfg["callback"] if each["type"] == "MaskToSegment"), None)
        if node is None:
            return None
        source = TENSORS[node["mask"].removeprefix("output.")]
        return {"from": source, "upsample_to": node["size"], "interp": "bilinear", "then": "argmax over slots"}

    def frozen(self):
        names = {
            r"backbone\..*": "backbone",
            r"tokenizer\..*": "tokenizer",
            r"tokenizer\.encoder\.taesd\.(?:[0-9]|10)\..*": "tokenizer.encoder.taesd 0-10",
        }
        return sorted(names[pattern] for pattern in self.cfg["freeze"])

    def taken(self):
        if self.cfg["pretrain"] is None:
            return None
        found = [module.removeprefix("tokenizer.") for module in self.cfg["pretrain"]["modules"]]
        books = ["shared", "quantizers"] if "shared" in self.tokens else ["quantizer"]
        return sorted("codes" if part == books[-1] else part for part in found if part not in books[:-1])


OPTIONS = {  # of our classes, at the values of the published runs; most are words of models.md, not of the facts
    "Backbone": dict(provider="timm", level=-1, normalize=False, level_scale=None, grid=None, mean=None, std=None)
    | dict(options=None, trainable=False, pretrained=True, weights=None),
    "PerSlotGaussian": dict(std=None),
    "BoxMLP": dict(keep_empty=True),  # section 7, D8
    "SlotAttention": dict(activation="gelu", normalize_state=False, first_iterations=None, input_dim=None),
    "AutoregressiveTransformer": dict(token_dropout=0, position=None),
    "BroadcastMLP": dict(position=None),
    "DiffusionDecoder": dict(num_heads=8),
    "FeatureEncoder": dict(hidden_dim=None),
    "ImageEncoder": dict(width=64, published_range=True, pretrained=True, weights=None),  # D9
    "PlainImageDecoder": dict(width=64, published_range=True, pretrained=True, weights=None),
    "ImageDecoder": dict(published_range=True, pretrained=True, weights=None),
    "Tokenizer": dict(latent_mix=0),
    "LPIPS": dict(rescale=True, pretrained=True, weights=None),  # D9
    "ReconstructionTarget": dict(reconstruction="output.reconstruction"),
    "VOC": dict(labels=None),
    "RandomClip": dict(step=1),
    "RandomCrop": dict(value=0),
    "CenterCrop": dict(size=None, value=0),
    "Resize": dict(keep_aspect=False, max_size=None),
    "RandomFlip": dict(axis="horizontal"),
    "PadTo": dict(side="right", truncate=True),  # D5
}
RUN = dict(grad_norm_type=2, accumulate=1, micro_batch=None, parameter_groups=None, precision="auto")


@pytest.mark.parity
@pytest.mark.parametrize("path", sorted({file_of(entry) for entry in facts()[0]}), ids=lambda path: path.stem)
def test_options_are_those_of_the_published_runs(path):
    """What our classes can do beside what the papers did is off, and what published numbers depend on is on."""
    cfg = experiment.complete(config.load(path))
    assert {key: cfg[key] for key in RUN} == RUN
    for node in typed_nodes(cfg):
        for name, value in OPTIONS.get(node["type"], {}).items():
            assert argument(node, name) == value, f"{node['type']}.{name}"
    if "tokenizer" in cfg["model"] and cfg["pretrain"] is not None:
        continuous = cfg["model"]["type"] == "SlotDiffusion" and path.stem.endswith(("-gdr", "-msf"))
        assert cfg["model"]["sample_codes"] is True  # D2
        assert cfg["model"].get("continuous_target", False) == continuous
        assert cfg["pretrain"]["knobs"]["resolution"] == Description(cfg).image_size()[0]


def typed_nodes(node):
    """Yield every dict with a `type` in a config."""
    if isinstance(node, dict) and "type" in node:
        yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from typed_nodes(child)


def argument(node, name):
    """Return an argument of a part: as the config gives it, else the default of its class."""
    if name in node:
        return node[name]
    return inspect.signature(CLASSES[node["type"]]).parameters[name].default


def single(values):
    """Return the only value, or all of several."""
    return values[0] if len(values) == 1 else values


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("config-*/[!_]*.py")), ids=lambda path: path.stem)
def test_the_best_checkpoint_is_chosen_by_what_is_reported(path):
    ours = Description(config.load(path))
    assert ours.kept()
    keys = ours.cfg["dataset"]["train"]["keys"]
    targets = [loss.get("target") for loss in ours.cfg["loss"].values()]
    if ours.is_stage1 and "output.feature" not in targets:  # as a demo has
        assert ours.target() == ["batch.video" if "video" in keys else "batch.image"]


@pytest.mark.parity
def test_stage_two_names_its_published_stage_one():
    require(FACTS)
    for entry in facts()[0]:
        cfg = config.load(file_of(entry))
        assert (cfg["pretrain"] is None) == ("stage1_config" not in entry)
        if cfg["pretrain"] is not None:
            assert cfg["pretrain"]["config"] == f"{entry['stage1_config']}.py"


def test_config_files_stay_short():
    lines = [len(path.read_text().splitlines()) for path in REPOSITORY.glob("config-*/*.py")]
    assert len(lines) > 52 and sum(lines) < 1200
