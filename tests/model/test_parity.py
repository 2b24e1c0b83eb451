"""Same numbers as the reference implementation: outputs, losses, gradients and five optimisation steps.

Every model of the folder whose method exists here is built from the sizes that its .json states; its weights come in
through the importer of published checkpoints.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from object_centric_bench.model import published
from object_centric_bench.model.broadcast import BroadcastMLP
from tests.conftest import GOLDEN, require

from .sizes import build_method, tiny_backbone

pytestmark = pytest.mark.parity

ATOL = RTOL = 1e-5
MARGIN = 1e-4  # between the two best slots; below it a label is a tie
OUTPUTS = {  # their names to ours
    "feature": "feature",
    "encode": "latent",
    "zidx": "code",
    "quant": "quantized",
    "residual": "mixed",
    "decode": "reconstruction",
    "slotz": "slots",
    "attent": "attention",
    "attent2": "mask",
}
METHODS = {"VVOTfd": "VVOTfd", "VVOMlp": "VVOMlp", "DINOSAUR": "DINOSAUR"}


def method_of(description):
    """Return our method of a reference model, or None if there is none yet."""
    method = METHODS.get(description["upstream"]["model_class"])
    if method is None or "image" not in description["inputs"]:
        return None
    sizes = description["hyper_parameters"]
    tokenizer = sizes.get("quantised_autoencoder")
    if tokenizer and (tokenizer["kind"] != "VQVAEZ" or tokenizer["encoder"]["input"] != "ViT features"):
        return None
    # A first stage is described by the class of its second stage, but has neither slots nor a decoder of them.
    if "slots" not in sizes:
        lpips = any("lpips" in loss["kind"].lower() for loss in description["losses"].values())
        return None if lpips else "VQDINO"
    return method


def build(description, method):
    """Build the model of the stated sizes."""
    sizes = description["hyper_parameters"]
    vit = sizes["vit"]
    options = {"patch_size": vit["patch"], "mlp_ratio": vit["mlp_ratio"], "qkv_bias": vit["qkv_bias"]}
    backbone = tiny_backbone(vit["embed_dim"], vit["input_hw"], vit["depth"], vit["num_heads"], **options)
    assert backbone.grid == list(sizes["token_grid_hw"])
    arguments = {}
    if tokenizer := sizes.get("quantised_autoencoder"):
        (quantizer,) = tokenizer["quantizers"]
        arguments |= {
            "num_codes": quantizer["codes"],
            "code_dim": quantizer["code_dim"],
            "basis_dim": quantizer["latent_dim"],
            "logit_scale": float(quantizer["gumbel_scale"]),
            "encoder_dim": tokenizer["encoder"]["width"],
        }
        if "decoder" in tokenizer:
            arguments |= {
                "taesd_width": sizes["taesd_channels"],
                "upscale_dim": tokenizer["decoder"]["first_conv1x1"],
            }
    if "slots" in sizes:
        attention, decoder = sizes["slot_attention"], sizes["decoder"]
        arguments |= {
            "num_slots": sizes["slots"],
            "slot_dim": sizes["slot_dim"],
            "projection_dims": sizes["encode_project"]["widths"],
            "hidden_dim": attention["ffn_dim"],
            "num_iterations": attention["iterations"],
            "bilevel": attention["truncated_backprop"] == "bi-level",
            "dropout": attention["dropout"],
        }
        if method == "VVOTfd":
            arguments |= {
                "num_layers": decoder["layers"],
                "num_heads": decoder["heads"],
                "transformer_hidden_dim": decoder["ffn_dim"],
            }
        else:
            arguments |= {"decoder_dims": decoder["widths"][:-1]}
    model = build_method(method, backbone, **arguments).eval()
    if tokenizer:
        model.tokenizer.latent_mix = tokenizer["alpha"]
    return model


def losses_of(method, output, image):
    """Return the reference's losses by their names there."""
    if method == "VQDINO":
        latent, size = output["latent"], output["reconstruction"].shape[2:]
        target = functional.interpolate(image, size, mode="bicubic", antialias=True)
        return {
            "recon": functional.mse_loss(output["reconstruction"], target),
            "align": functional.mse_loss(output["quantized"], latent.detach()),
            "commit": 0.25 * functional.mse_loss(latent, output["mixed"].detach()),
            "norm_e": 0.1 * functional.mse_loss(latent, functional.group_norm(latent.detach(), 1)),
        }
    if method == "VVOTfd":
        return {"recon": functional.cross_entropy(output["logits"], output["code"])}
    if method == "VVOMlp":
        return {
            "recon0": functional.mse_loss(output["quantized_reconstruction"], output["quantized"].detach()),
            "recon": functional.mse_loss(output["feature_reconstruction"], output["feature"].detach()),
        }
    return {"recon": functional.mse_loss(output["reconstruction"], output["feature"].detach())}


def their_outputs(method, output, names):
    """Yield (their name, our tensor) for every output of the reference."""
    for name in names:
        if name != "recon":
            yield name, output[OUTPUTS[name]]
        elif method == "VVOMlp":
            yield name, torch.cat([output["quantized_reconstruction"], output["feature_reconstruction"]], dim=1)
        else:
            yield name, output["logits" if method == "VVOTfd" else "reconstruction"]


def models():
    """Return the descriptions of the folder's models that we have a method for."""
    folder = GOLDEN / "models"
    if not folder.is_dir():
        return []
    descriptions = [(path, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    return [path for path, description in descriptions if method_of(description)]


def test_folder_has_models():
    """An empty selection of models must not pass for agreement."""
    folder = require(require(GOLDEN) / "models")
    assert models(), f"none of the models in {folder} has a method here"


class Comparison:
    """Collects the largest difference of each kind, and every pair that differs too much."""

    def __init__(self):
        self.largest = {}
        self.faults = []

    def __call__(self, kind, name, ours, theirs, rtol=RTOL):
        ours, theirs = torch.as_tensor(ours).detach(), torch.as_tensor(theirs)
        if ours.shape != theirs.shape:
            self.faults.append(f"{kind} {name}: shape {tuple(ours.shape)}, reference {tuple(theirs.shape)}")
            return
        if not theirs.is_floating_point():
            if not torch.equal(ours, theirs.to(ours.dtype)):
                self.faults.append(f"{kind} {name}: {int((ours != theirs).sum())} values differ")
            return
        error = (ours.double() - theirs.double()).abs()
        self.largest[kind] = max(self.largest.get(kind, 0.0), error.max().item())
        if not (error <= ATOL + rtol * theirs.double().abs()).all():
            self.faults.append(f"{kind} {name}: off by {error.max().item():.2e}")


@pytest.mark.parametrize("path", models(), ids=lambda path: path.stem)
def test_model_equals_reference(path, record_property):
    description = json.loads(path.read_text())
    tensors = load_file(path.with_suffix(".safetensors"))
    method = method_of(description)
    model = build(description, method)
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    assert published.is_published(state)
    model.load_state_dict(published.translate(state, model))
    compare = Comparison()
    compare_block(compare, model, method, description, tensors, prefix="")
    if block := description["alpha_block"]:
        model.tokenizer.latent_mix = block["alpha"]
        compare_block(compare, model, method, description, tensors, prefix=block["prefix"])
        model.tokenizer.latent_mix = description["hyper_parameters"]["quantised_autoencoder"]["alpha"]
    if description["trajectory"]:
        compare_trajectory(compare, model, method, description["trajectory"], tensors["input.image"])
    errors = {kind: f"{value:.1e}" for kind, value in compare.largest.items()}
    record_property("largest_errors", errors)
    print(f"\n{path.stem} ({method}): {errors}")
    assert not compare.faults, "\n".join(compare.faults)


def compare_block(compare, model, method, description, tensors, prefix):
    """Compare one forward and backward pass."""
    image = tensors["input.image"]
    output = model(image=image)
    for name, ours in their_outputs(method, output, description["output_names_in_order"]):
        compare("output", prefix + name, ours, tensors[f"{prefix}output.{name}"])
    losses = losses_of(method, output, image)
    expected = {key for key in tensors if key.startswith(f"{prefix}loss.")}
    assert expected == {f"{prefix}loss.{name}" for name in losses}
    for name, ours in losses.items():
        compare("loss", prefix + name, ours, tensors[f"{prefix}loss.{name}"])
    total = sum(losses.values())
    compare("loss", f"{prefix}total", total, tensors[f"{prefix}loss_total"])
    model.zero_grad()
    total.backward()
    compare_gradients(compare, model, description, tensors, prefix)
    if f"{prefix}segment" in tensors:
        source = OUTPUTS[description["segment_source"].removeprefix("output.")]
        maps = functional.interpolate(output[source], image.shape[2:], mode="bilinear")
        clear = tensors[f"{prefix}segment_margin"].float() > MARGIN
        theirs = tensors[f"{prefix}segment"].long()
        compare("segment", prefix, maps.argmax(dim=1)[clear], theirs[clear])


def compare_gradients(compare, model, description, tensors, prefix):
    """Compare every stored gradient, and expect one for every parameter that has one here."""
    table = published.names(model)
    start = f"{prefix}grad."
    gradients = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
    assert gradients
    parameters = dict(model.named_parameters())
    mixture = isinstance(getattr(model, "decoder", None), BroadcastMLP)
    mask_bias = f"decoder.layers.{len(model.decoder.layers) - 1}.bias" if mixture else None
    for their, theirs in gradients.items():
        our = published.rename(their, table)
        ours = parameters[our].grad
        if ours is None:
            compare.faults.append(f"gradient {prefix}{our}: none, reference has {their}")
            continue
        if their == "m.aggregat.norm1q.bias":  # truly zero; both sides are rounding noise
            compare("gradient", prefix + our, ours, theirs, rtol=0)
        elif our == mask_bias:
            compare("gradient", prefix + our, ours[:-1], theirs[:-1])
            compare("gradient", f"{prefix}{our} (mask)", ours[-1], theirs[-1], rtol=0)  # truly zero, too
        else:
            compare("gradient", prefix + our, ours, theirs)
    ours = {our for our, parameter in parameters.items() if parameter.grad is not None}
    dropped = {key.removeprefix("grad.") for key in description["dropped_gradients"]}
    theirs = {published.rename(their, table) for their in gradients.keys() | dropped}
    if ours != theirs:
        compare.faults.append(f"gradients {prefix}: only on one side: {sorted(ours ^ theirs)}")


def compare_trajectory(compare, model, method, trajectory, image):
    """Compare five optimisation steps."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=trajectory["lr"])
    losses, norms = [], []
    for _ in trajectory["losses"]:
        loss = sum(losses_of(method, model(image=image), image).values())
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), trajectory["clip_max_norm"]).item())
        optimizer.step()
        losses.append(loss.item())
    losses.append(sum(losses_of(method, model(image=image), image).values()).item())
    compare("trajectory", "losses", losses, [*trajectory["losses"], trajectory["loss_after_last_step"]])
    compare("trajectory", "gradient norms", norms, trajectory["grad_norms"])
    table = published.names(model)
    after = dict(model.named_parameters())
    for their, theirs in trajectory["update_l2"].items():
        our = published.rename(their, table)
        if their != "m.aggregat.norm1q.bias":  # Adam scales its rounding noise up to steps
            compare("trajectory", our, (after[our].detach() - before[our]).norm().item(), theirs)
