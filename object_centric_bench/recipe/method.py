"""Methods that find slots: model, loss and what is frozen, by what their slots predict."""

from . import model
from .backbone import Backbone, before_final_norm

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
    if "tokenizer" in parts:
        parts = dict(sample_codes=True) | parts  # draw the codes in training, as the published results do
    frozen = [rf"{part}\..*" for part in ("backbone", "tokenizer") if part == "backbone" or part in parts]
    return dict(
        model=dict(type=type, backbone=backbone.build, **slots, **parts, decoder=decoder), loss=loss, freeze=frozen
    )


def codes(
    type: str,
    backbone: Backbone,
    slots: dict,
    tokenizer: dict,
    num_layers: int = 4,
    linear: bool = False,
    nine: bool = False,
) -> dict:
    """SLATE, STEVE, VVO-Tfd, -Tfd9 and -TfdT: a transformer predicts the codes, of several codebooks side by side.

    Args:
        type, backbone, slots: see `method`.
        tokenizer: without a decoder; codes are as wide as slots.
        num_layers: of the transformer.
        linear: project features by two linear maps instead of norm and MLP.
        nine: read and predict the codes in nine orders.
    """
    dim = slots["slot_attention"]["dim"]
    loss: dict = dict(type="CrossEntropy", prediction="output.logits", target="output.code")
    groups = group_sizes(tokenizer)
    if len(groups) > 1:
        loss["groups"] = groups
    decoder = model.autoregressive(backbone.grid, dim, sum(groups), num_layers, nine)
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
    return method(type, backbone, slots, decoder, reconstructions(), tokenizer=tokenizer)


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


def similarity(
    backbone: Backbone,
    slots: dict,
    tokenizer: dict | None = None,
    hidden_dim: int = 1024,
    num_hidden: int = 4,
    temperature: float = 0.15,
    keys: bool = True,
    reconstruct: bool = True,
) -> dict:
    """VideoSAUR, or with a tokenizer VVO-SmdT: a slot mixer reconstructs and predicts temporal similarities.

    Args:
        backbone, slots: see `method`.
        tokenizer: of the features, without a decoder; its code vectors are reconstructed too.
        hidden_dim, num_hidden: width and number of the decoder's hidden layers.
        temperature: of the similarities.
        keys: measure similarity on the backbone's last keys; False takes its features.
        reconstruct: features too; False, without a tokenizer only, predicts similarities and nothing else.

    VideoSAUR takes features from before the backbone's final norm, as its paper does; those of VVO-SmdT are the first
    stage's, after it.
    """
    backbone = before_final_norm(backbone) if tokenizer is None else backbone
    dim, places = slots["slot_attention"]["dim"], backbone.grid[0] * backbone.grid[1]
    source = "output.key" if keys else "output.feature"
    loss: dict = dict(recon=dict(type="MSE", prediction="output.reconstruction", target="output.feature"))
    parts: dict = dict(projection=model.projection(backbone.dim, dim) | dict(activation="relu"))
    width = backbone.dim
    if tokenizer is not None:
        loss = reconstructions()
        parts["tokenizer"], width = tokenizer, width + tokenizer["quantizer"]["dim"]
    else:
        parts["reconstruct"] = reconstruct
        loss, width = (loss, width) if reconstruct else ({}, 0)
    loss["similarity"] = dict(
        type="TemporalSimilarity",
        prediction="output.similarity",
        feature=source,
        temperature=temperature,
        threshold=0.0,
        shift=1,
        weight=0.1,
    )
    scale = slots["predictor"].get("published_scale", False)
    decoder = model.mixer(backbone.grid, dim, width + places, hidden_dim, num_hidden, scale)
    type = "VideoSAUR" if tokenizer is None else "VVOSmdT"
    return method(type, backbone, slots, decoder, loss, **parts, keys=keys)


def reconstructions() -> dict:
    """Return the losses of what reconstructs code vectors and features."""
    return dict(
        quantized=dict(type="MSE", prediction="output.quantized_reconstruction", target="output.quantized"),
        feature=dict(type="MSE", prediction="output.feature_reconstruction", target="output.feature"),
    )


def spot(
    backbone: Backbone,
    num_slots: int,
    slot_dim: int,
    official: bool = True,
    xavier: bool = False,
    **decoder: object,
) -> dict:
    """SPOT, first stage: a transformer predicts the features, taken before the backbone's final norm, in nine orders.

    Args:
        backbone: see `method`.
        num_slots, slot_dim: of slots drawn from one Gaussian.
        official: the paper's layers; False takes those of the other methods here: GELU everywhere, and a decoder with
            four heads, without biases and final norm, whose weights start as theirs.
        xavier: projection and slot attention start by the paper's rules too; see `SPOT`.
        decoder: further arguments of `SPOTDecoder`.
    """
    dim, activation = backbone.dim, "relu" if official else "gelu"
    attention = dict(type="SlotAttention", dim=slot_dim, input_dim=dim, hidden_dim=4 * slot_dim, num_iterations=3)
    attention |= dict(bilevel=False, dropout=0.0, epsilon=1e-8 if official else 1e-5, activation=activation)
    layers = dict(xavier=official, train_order="random", eval_order="standard")
    if not official:
        layers |= dict(num_heads=4, bias=False, activation="gelu", final_norm=False)
    slots = dict(initializer=model.shared_slots(num_slots, slot_dim), slot_attention=attention)
    projection = dict(type="MLP", dims=[dim, dim, dim], norm=True, activation=activation)
    backbone = before_final_norm(backbone)
    loss = dict(recon=dict(type="MSE", prediction="output.reconstruction", target="output.feature"))
    decoder = dict(type="SPOTDecoder", grid=backbone.grid, dim=dim, slot_dim=slot_dim) | layers | decoder
    return method("SPOT", backbone, slots, decoder, loss, projection=projection, xavier=xavier)


def distilled(taught: dict, trained: str, weight: float = 0.005, lr_scale: float = 1.0, shared_blocks: int = 0) -> dict:
    """SPOT, second stage: a student with learned slots is taught by a model of the first stage.

    The teacher decodes in one of the nine orders, drawn for every batch, whatever the order that the student is
    evaluated in.

    Args:
        taught: from `spot`.
        trained: regular expression of the names, inside the backbone, of the parts that the student trains.
        weight: of the distillation.
        lr_scale: factor of the learning rate of those parts; 1 in the paper.
        shared_blocks: number of first blocks, of a vision transformer, that teacher and student run together.
    """
    teacher = taught["model"] | dict(decoder=taught["model"]["decoder"] | dict(eval_order="random"))
    student = {key: value for key, value in taught["model"].items() if key != "type"}
    sizes = {key: student["initializer"][key] for key in ("num_slots", "dim")}
    student |= dict(
        backbone=student["backbone"] | dict(trainable=True),
        initializer=model.learned_slots(**sizes),
        slot_attention=student["slot_attention"] | dict(bilevel=True),
    )
    return dict(
        model=dict(type="SPOTDistill", teacher=teacher, **student, shared_blocks=shared_blocks),
        loss=taught["loss"] | dict(distillation=dict(type="MatchedDistillation", weight=weight)),
        freeze=[r"teacher\..*", rf"backbone\.model\.(?!(?:{trained})\.).*"],
        parameter_groups=[dict(pattern=r"backbone\..*", lr_scale=lr_scale)],
    )


def first_stage_of_spot(config: str, scratch: bool = False, **knobs: object) -> dict:
    """Return the `pretrain` section of a second stage of SPOT.

    Args:
        config: file of the first stage.
        scratch: the student takes over the backbone only, as in the paper, instead of all but the initial slots.
        knobs: what the first stage is made with.
    """
    copied = ["backbone"] if scratch else ["backbone", "projection", "slot_attention", "decoder"]
    return dict(config=config, knobs=knobs, modules=dict(teacher="") | {name: name for name in copied})


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
