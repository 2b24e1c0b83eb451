"""Reads the models of the folder of reference numbers: from their .json and .safetensors to our model, inputs, losses.

All sizes come from the json, and its words decide what is built, so that other models of the same format run, too.
"""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from object_centric_bench.learn.loss import MSE, CrossEntropy, UnitNorm
from object_centric_bench.learn.perceptual import ALEXNET_LAYERS, LPIPS
from object_centric_bench.model import published

from .sizes import METHODS, build_method, tiny_backbone

CODES = {"VQVAE": "learned", "VQVAEZ": "projected", "VQVAEZGrouped": "grouped", "VQVAEZMultiScale": "multi-scale"}
INPUTS = {"image": "image", "video": "video", "bbox": "box"}  # their names to ours
OUTPUTS = {
    "feature": "feature",
    "encode": "latent",
    "zidx": "code",
    "quant": "quantized",
    "residual": "mixed",
    "decode": "reconstruction",
    "slotz": "slots",
    "attent": "attention",
    "attent2": "mask",
    "noise": "noise",
}
PREDICTIONS = {"autoregressive": "logits", "diffusion": "prediction", "mixture": "reconstruction", None: None}


class Reference:
    """A model of the folder: `description` is its json, `state` the weights under the authors' names."""

    def __init__(self, path):
        self.description = json.loads(path.read_text())
        self.sizes = self.description["hyper_parameters"]
        self.method = self._find_method(path)
        self.tensors = load_file(path.with_suffix(".safetensors"))
        self.kind = METHODS[self.method]
        self.state = self.under("state.")
        given = {INPUTS[name]: tensor for name, tensor in self.under("input.").items() if name in INPUTS}
        self.inputs = given | {name: self.tensors[name] for name in ("timestep", "noise") if name in self.tensors}
        self.picture = given["video" if "video" in given else "image"]
        self.outputs = OUTPUTS | {"recon": PREDICTIONS[self.kind.decoder]}
        # The reference's SlotDiffusion gives the noise the name of the prediction and the other way round.
        if "noise" in self.tensors and torch.equal(self.tensors["output.recon"], self.tensors["noise"]):
            self.outputs |= {"recon": "noise", "noise": "prediction"}

    def _find_method(self, path):
        cls = self.description["upstream"]["model_class"]
        if cls in CODES:
            return "VQVAE"
        if cls not in METHODS:
            pytest.fail(f"{path.name}: there is no method here for the reference's class {cls!r}")
        # The first stage of VVO goes by the class of its second, but has neither slots nor a decoder of them.
        return cls if "slots" in self.sizes else "VQDINO"

    def under(self, prefix):
        """Return the tensors whose names start so, without that start."""
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def build(self):
        """Build the model in eval mode, with the reference's weights, and frozen where the reference's is."""
        backbone = None if self.method == "VQVAE" else self._build_backbone()
        arguments = self._tokenizer_sizes() | (self._slot_sizes() if "slots" in self.sizes else {})
        model = build_method(self.method, backbone, **arguments).eval()
        if hasattr(model, "tokenizer"):
            model.tokenizer.latent_mix = self.sizes["quantised_autoencoder"].get("alpha", 0.0)
        model.load_state_dict(published.translate(self.state, model))
        table = published.names(model)
        frozen = {published.rename(name, table) for name in self.state if self._is_frozen(name)}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        return model

    def _is_frozen(self, name):
        return any(re.fullmatch(pattern, name) for pattern in self.description["freeze_regexes"])

    def _build_backbone(self):
        vit = self.sizes["vit"]
        options = {"patch_size": vit["patch"], "mlp_ratio": vit["mlp_ratio"], "qkv_bias": vit["qkv_bias"]}
        if vit["register_tokens"]:
            options["reg_tokens"] = vit["register_tokens"]
        if not vit["layer_scale"]:
            options["init_values"] = None
        backbone = tiny_backbone(vit["embed_dim"], vit["input_hw"], vit["depth"], vit["num_heads"], **options)
        assert backbone.grid == list(self.sizes["token_grid_hw"])
        return backbone

    def _tokenizer_sizes(self):
        tokenizer = self.sizes.get("quantised_autoencoder")
        if tokenizer is None:
            return {}
        assert tokenizer.get("project") is None, "this tokenizer projects its latents, which no published config does"
        codes, encoder = CODES[tokenizer["kind"]], tokenizer["encoder"]
        arguments = {"codes": codes, "taesd_width": self.sizes["taesd_channels"], "encoder_dim": encoder.get("width")}
        assert (encoder["input"] == "ViT features") == (self.kind.encoder == "feature")
        if isinstance(decoder := tokenizer.get("decoder"), dict):
            arguments["upscale_dim"] = decoder["first_conv1x1"]
        if codes == "learned":
            return arguments | {"num_codes": tokenizer["codes"], "code_dim": tokenizer["code_dim"]}
        quantizers = tokenizer["quantizers"]
        (basis_dim,) = {quantizer["latent_dim"] for quantizer in quantizers}
        (logit_scale,) = {float(quantizer["gumbel_scale"]) for quantizer in quantizers}
        widths, numbers = ([quantizer[key] for quantizer in quantizers] for key in ("code_dim", "codes"))
        arguments |= {"basis_dim": basis_dim, "logit_scale": logit_scale}
        arguments["num_codes"] = numbers[0] if codes == "projected" else numbers
        arguments["code_dim"] = sum(widths) if codes == "grouped" else widths[0]
        if tokenizer.get("eaq"):
            arguments["continuous_target"] = True
        return arguments

    def _slot_sizes(self):
        attention, decoder, project = (self.sizes[key] for key in ("slot_attention", "decoder", "encode_project"))
        arguments = {
            "num_slots": self.sizes["slots"],
            "slot_dim": self.sizes["slot_dim"],
            "boxes": "boxes" in self.sizes["slot_init"],
            "projection_dims": project["widths"],
            "linear": not project["kind"].startswith("LayerNorm"),
            "hidden_dim": attention["ffn_dim"],
            "num_iterations": attention["iterations"],
            "bilevel": attention["truncated_backprop"] == "bi-level",
            "dropout": attention["dropout"],
        }
        if transition := self.sizes.get("transition"):
            sizes = {"num_heads": "heads", "hidden_dim": "ffn_dim", "dropout": "dropout"}
            arguments["predictor"] = {ours: transition[theirs] for ours, theirs in sizes.items()}
        if self.kind.decoder == "autoregressive":
            sizes = {"num_layers": "layers", "num_heads": "heads", "transformer_hidden_dim": "ffn_dim"}
            return arguments | {ours: decoder[theirs] for ours, theirs in sizes.items()}
        if self.kind.decoder == "mixture":
            return arguments | {"decoder_dims": decoder["widths"][:-1]}
        unet, noise = decoder["unet"], decoder["noise"]
        arguments["unet"] = {
            "widths": unet["block_out_channels"],
            "layers_per_block": unet["layers_per_block"],
            "num_heads": unet.get("attention_head_dim", 8),  # the default of diffusers, which takes it for this
            "dropout": unet["dropout"],
            "num_steps": noise["num_train_timesteps"],
            "beta_start": noise["beta_start"],
            "beta_end": noise["beta_end"],
        }
        return arguments

    def output_pairs(self, output, prefix=""):
        """Yield (name, our tensor, the reference's) for every output."""
        for name in self.description["output_names_in_order"]:
            if name == "recon" and "quantized_reconstruction" in output:
                ours = torch.cat([output["quantized_reconstruction"], output["feature_reconstruction"]], dim=-3)
            else:
                ours = output[self.outputs[name]]
            key = f"{prefix}output.{name}"
            if isinstance(ours, list):
                assert key not in self.tensors and f"{key}.{len(ours)}" not in self.tensors
                yield from ((f"{name}.{index}", our, self.tensors[f"{key}.{index}"]) for index, our in enumerate(ours))
            else:
                yield name, ours, self.tensors[key]

    def losses(self, output):
        """Return the losses that the json describes, computed by our classes, by their names there."""
        return {name: self._loss(loss, output) for name, loss in self.description["losses"].items()}

    def _loss(self, loss, output):
        steps, batch = " ".join(loss["preprocessing"]), dict(self.inputs)
        prediction, target = self._path(loss["input"]), self._path(loss["target"])
        options = {"weight": float(loss["weight"])}
        if loss["kind"] in ("CrossEntropyLoss", "CrossEntropyLossGrouped"):
            if "groups" in loss:
                options["groups"] = loss["groups"]
            return CrossEntropy(prediction, target, **options)(batch, output)
        if "GroupNorm" in steps:
            assert prediction == target
            options |= {"joint": True} if "video" in batch else {}
            return UnitNorm(prediction, **options)(batch, output)
        if "sliced" in steps:
            prediction = f"{target}_reconstruction"
        if "resize" in steps:
            size = json.loads(re.search(r"to (\[\d+, \d+\])", steps)[1])
            batch["target"], target = resize(self.picture, size), "batch.target"
        if target == "output.prediction":  # their loss is symmetric, ours takes its target for a constant
            prediction, target = target, prediction
        if loss["kind"] == "MSELoss":
            return MSE(prediction, target, **options)(batch, output)
        if loss["kind"] == "LPIPSLoss":
            lpips = LPIPS(prediction, target, pretrained=False, rescale=True, **options)
            lpips.network.load(*seeded_lpips(self.sizes["lpips"]["seed"], lpips.network))
            return lpips(batch, output)
        return pytest.fail(f"there is no loss here for the reference's {loss['kind']}")

    def _path(self, theirs):
        where, name, *index = theirs.split(".")
        return ".".join([where, (self.outputs if where == "output" else INPUTS)[name], *index])


def resize(picture, size):
    """Resize images (b c h w) or videos (b t c h w) as the reference does to its targets."""
    flat = picture.flatten(0, -4)
    return functional.interpolate(flat, size, mode="bicubic", antialias=True).unflatten(0, picture.shape[:-3])


def seeded_lpips(seed, network):
    """Return weights of AlexNet and of the heads, drawn as the README of the folder says."""
    random = np.random.RandomState(seed)
    alexnet, heads = {}, {}
    for layer, conv in zip(ALEXNET_LAYERS, network.convs, strict=True):
        fan_in = conv.weight[0].numel()
        alexnet[f"features.{layer}.weight"] = random.standard_normal(conv.weight.shape) * (2 / fan_in) ** 0.5
        alexnet[f"features.{layer}.bias"] = random.standard_normal(conv.bias.shape) * 0.05
    for index, conv in enumerate(network.convs):
        heads[f"lin{index}.model.1.weight"] = abs(random.standard_normal(conv.bias.shape)).reshape(1, -1, 1, 1) * 0.1
    return tuple({name: torch.from_numpy(array).float() for name, array in part.items()} for part in (alexnet, heads))
