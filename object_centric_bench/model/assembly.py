"""How the parts of a method that finds slots in a backbone's features are put together."""

from collections.abc import Iterable

from torch import nn

from object_centric_bench.model.mlp import zero_biases
from object_centric_bench.model.sizes import require_equal


def assemble(
    model: nn.Module,
    backbone: nn.Module,
    projection: nn.Module,
    initializer: nn.Module,
    slot_attention: nn.Module,
    decoder: nn.Module,
    fit: Iterable[tuple] = (),
    **others: nn.Module,
) -> None:
    """Give a model its parts after checking that they fit; the projection starts without biases, as in the reference.

    Args:
        model: gets the parts as attributes of their names.
        backbone: images to features.
        projection: features to the tokens of slot attention.
        initializer: batch size, or boxes, to initial slots.
        slot_attention: tokens and initial slots to slots.
        decoder: from slots; what it gives is the method's.
        fit: further pairs of sizes that must be equal, as `require_equal` takes them.
        others: parts that only some methods have, such as a tokenizer; they come before the decoder.

    Raises:
        ValueError: widths or grids of parts that meet differ; all of them are named.
    """
    require_equal(
        ("backbone's dim", backbone.dim, "projection's input width", projection.input_dim),
        ("projection's output width", projection.dim, "slot_attention's input_dim", slot_attention.input_dim),
        ("initializer's dim", initializer.dim, "slot_attention's dim", slot_attention.dim),
        ("slot_attention's dim", slot_attention.dim, "decoder's slot width", decoder.dim),
        ("backbone's grid", backbone.grid, "decoder's grid", decoder.grid),
        *fit,
    )
    model.backbone = backbone
    model.projection = projection
    model.initializer = initializer
    model.slot_attention = slot_attention
    for name, part in others.items():
        setattr(model, name, part)
    model.decoder = decoder
    zero_biases(projection)


def fit_reconstruction(backbone: nn.Module, decoder: nn.Module) -> tuple:
    """Return what a decoder that gives features shares with the backbone."""
    return ("backbone's dim", backbone.dim, "decoder's output width", decoder.output_dim)
