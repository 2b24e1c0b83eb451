"""Methods that find slots: model, loss and what is frozen, by what their slots predict."""

from . import model
from .backbone import Backbone

WIDTHS = (128, 256, 384, 512)  # of the diffusion decoder's levels


def method(type: str, backbone: Backbone, slots: dict, decoder: dict, loss: dict, **parts: object) -> dict:
    """Compose a method.

    Args:
        type: the model's class.
        backbone: gives the features that slots are found in; it is frozen.
        slots: initializer and slot attention, of videos also the predictor.
        decoder: from slots to what the loss compares.
        loss: the loss section.
        parts: further arguments of the class: projection (default: norm and a GELU MLP), and a tokenizer, which is
            frozen too.
    """
    dim = slots["slot_attention"]["dim"]
    parts = dict(projection=model.projection(backbone.dim, dim)) | parts
    frozen = [rf"{part}\..*" for part in ("backbone", "tokenizer") if part == "backbone" or part in parts]
    return dict(
        model=dict(type=type, backbone=backbone.build, **slots, **parts, decoder=decoder), loss=loss, freeze=frozen
    )


def codes(
    type: str, backbone: Backbone, slots: dict, tokenizer: dict, num_layers: int = 4, linear: bool = False
) -> dict:
    """SLATE, STEVE, VVO-Tfd and -TfdT: a transformer predicts the codes, of several codebooks side by side.

    Args:
        type, backbone, slots: see `method`.
        tokenizer: without a decoder; codes are as wide as slots.
        num_layers: of the transformer.
        linear: project features by two linear maps instead of norm and MLP.
    """
    dim = slots["slot_attention"]["dim"]
    loss = dict(type="CrossEntropy", prediction="output.logits", target="output.code")
    groups = group_sizes(tokenizer)
    if len(groups) > 1:
        loss["groups"] = groups
    decoder = model.autoregressive(backbone.grid, dim, sum(groups), num_layers)
    projection = model.projection(backbone.dim, dim, linear=linear)
    return method(type, backbone, slots, decoder, dict(recon=loss), projection=projection, tokenizer=tokenizer)


def mixture(
    type: str, backbone: Backbone, slots: dict, tokenizer: dict, hidden_dim: int = 2048, num_hidden: int = 3
) -> dict:
    """VVO-Mlp and -MlpT: a mixture decoder reconstructs code vectors and features.

    Args:
        type, backbone, slots: see `method`.
        tokenizer: of the features, without a decoder.
        hidden_dim, num_hidden: width and number of the decoder's hidden layers.
    """
    width = tokenizer["quantizer"]["dim"] + backbone.dim
    decoder = model.broadcast(backbone.grid, slots["slot_attention"]["dim"], width, hidden_dim, num_hidden)
    loss = dict(
        quantized=dict(type="MSE", prediction="output.quantized_reconstruction", target="output.quantized"),
        feature=dict(type="MSE", prediction="output.feature_reconstruction", target="output.feature"),
    )
    return method(type, backbone, slots, decoder, loss, tokenizer=tokenizer)


def denoising(
    type: str,
    backbone: Backbone,
    slots: dict,
    tokenizer: dict,
    widths: tuple[int, ...] = WIDTHS,
    linear: bool = False,
    **options: object,
) -> dict:
    """SlotDiffusion, VVO-Dfz and -DfzT: a UNet predicts the noise in code vectors.

    Args:
        type, backbone, slots: see `method`.
        tokenizer: without a decoder, with codes of few channels.
        widths: of the UNet's levels.
        linear: project features by two linear maps instead of norm and MLP.
        options: of the class, such as `continuous_target`.
    """
    dim = slots["slot_attention"]["dim"]
    sizes = dict(latent_dim=tokenizer["encoder"]["dim"], dim=dim, widths=list(widths))
    decoder = dict(type="DiffusionDecoder", grid=backbone.grid, **sizes)
    loss = dict(recon=dict(type="MSE", prediction="output.prediction", target="output.noise"))
    projection = model.projection(backbone.dim, dim, linear=linear)
    return method(type, backbone, slots, decoder, loss, projection=projection, tokenizer=tokenizer, **options)


def features(backbone: Backbone, slots: dict, hidden_dim: int = 2048, num_hidden: int = 3) -> dict:
    """DINOSAUR: a mixture decoder reconstructs the features.

    Args:
        backbone, slots: see `method`.
        hidden_dim, num_hidden: width and number of the decoder's hidden layers.
    """
    decoder = model.broadcast(backbone.grid, slots["slot_attention"]["dim"], backbone.dim, hidden_dim, num_hidden)
    loss = dict(recon=dict(type="MSE", prediction="output.reconstruction", target="output.feature"))
    return method("DINOSAUR", backbone, slots, decoder, loss)


def group_sizes(tokenizer: dict) -> list[int]:
    """Return the sizes of the codebooks that give a place its codes."""
    if "shared" in tokenizer:  # multi-scale: the shared one and that of the finest scale
        return [tokenizer["shared"]["num_codes"], tokenizer["quantizers"][0]["num_codes"]]
    sizes = tokenizer["quantizer"]["num_codes"]
    return list(sizes) if isinstance(sizes, list) else [sizes]


def tokenizer_parts(tokenizer: dict) -> list[str]:
    """Return the modules of a tokenizer that a second stage takes over from the first."""
    quantizers = ["shared", "quantizers"] if "shared" in tokenizer else ["quantizer"]
    return [f"tokenizer.{part}" for part in ("encoder", *quantizers)]
