"""The models of all published configs at full size, on the meta device: names and shapes, no numbers."""

import json

import torch

from object_centric_bench.learn.optimizer import freeze

from .sizes import build_method, tiny_backbone

STAGES = {  # first word of a config's name, without what follows the underscore of its initializer
    "dinosaur": "DINOSAUR",
    "slate": "SLATE",
    "steve": "STEVE",
    "slotdiffusion": "SlotDiffusion",
    "vqvae": "VQVAE",
    "vqdino": "VQDINO",
    "vqdino_tfd": "VVOTfd",
    "vqdino_tfdt": "VVOTfdT",
    "vqdino_mlp": "VVOMlp",
    "vqdino_dfz": "VVODfz",
}
SLOTS = {"clevrtex": 11, "coco": 7, "voc": 6, "movi_d": 21}
CODES = {  # per kind of tokenizer: its numbers of codes and the width of its fixed tables
    "grouped": {"num_codes": [256, 256], "basis_dim": 512},
    "multi-scale": {"num_codes": [256, 256, 128, 64]},
    None: {"num_codes": 4096},
}
SIZES = {
    "slot_dim": 256,
    "decoder_dims": (2048, 2048, 2048),
    "num_layers": 4,
    "taesd_width": 64,
    "upscale_dim": 256,
    "unet": {"widths": (128, 256, 384, 512), "layers_per_block": 2},
}
FROZEN = {  # the `freeze` of our configs
    "VQVAE": [r"tokenizer\.encoder\.taesd\.(?:[0-9]|10)\..*"],
    "VQDINO": [r"backbone\..*"],
    "DINOSAUR": [r"backbone\..*"],
}
STAGE_TWO = [r"backbone\..*", r"tokenizer\..*"]


def method_of(name):
    """Return our class of a published config, `slate_r_vqvae-coco-gdr` for example."""
    method = name.split("-")[0]
    return STAGES[method.removesuffix("_vqvae").removesuffix("_r").removesuffix("_c")]


def full_size(name):
    """Build the model of a published config, frozen as there."""
    method = method_of(name)
    _, dataset, *rest = name.split("-")
    codes = "grouped" if "gdr" in rest else "multi-scale" if "msf" in rest else None
    diffusion = method in ("SlotDiffusion", "VVODfz")
    sizes = SIZES | CODES[codes] | {"codes": codes, "num_slots": SLOTS[dataset]}
    sizes["code_dim"] = 4 if diffusion or "c4" in rest else 256
    with torch.device("meta"):
        pixels = 336 if "r384" in rest else 224
        backbone = None if method == "VQVAE" else tiny_backbone(384, [pixels, pixels], depth=12, num_heads=6)
        model = build_method(method, backbone, **sizes)
    freeze(model, FROZEN.get(method, STAGE_TWO))
    return model


def published_state(golden, name):
    """Return a published config's checkpoint, names and shapes only; `name` starts with the repository's folder."""
    table = json.loads((golden / "keys" / f"{name}.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, (shape, _) in table.items()}
