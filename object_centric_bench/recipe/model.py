"""Parts of models that several configs share: projection, slots, tokenizer, decoders."""


def projection(dim: int, slot_dim: int, linear: bool = False) -> dict:
    """From feature to slot width: norm and a GELU MLP, or (`linear`) two linear maps with dropout between them."""
    dims = [dim, 2 * dim, slot_dim]
    if linear:
        return dict(type="MLP", dims=dims, activation=None, dropout=0.01)
    return dict(type="MLP", dims=dims, norm=True)


def fourier(grid: list[int], dim: int) -> dict:
    """Positions that start from sines and cosines: what decoders need that train for minutes, not hours."""
    return dict(type="FourierPosition", grid=grid, dim=dim)


def gaussian_slots(num_slots: int, dim: int) -> dict:
    """Slots drawn from one learned Gaussian each, refined by slot attention in three iterations."""
    return dict(
        initializer=dict(type="PerSlotGaussian", num_slots=num_slots, dim=dim),
        slot_attention=dict(type="SlotAttention", dim=dim, hidden_dim=4 * dim, num_iterations=3, bilevel=True),
    )


def box_slots(dim: int) -> dict:
    """A slot per box of the first frame, refined once per frame, and the predictor of the next frame's slots.

    Boxes that only fill up their number have slots too, as in the published runs.
    """
    return dict(
        initializer=dict(type="BoxMLP", dim=dim, keep_empty=True),
        slot_attention=dict(type="SlotAttention", dim=dim, hidden_dim=4 * dim, num_iterations=1, bilevel=True),
        predictor=dict(type="SlotPredictor", dim=dim, num_heads=4, hidden_dim=4 * dim),
    )


def free_slots(num_slots: int, dim: int, published_scale: bool = False) -> dict:
    """VideoSAUR: slots drawn from one Gaussian for all, three iterations in the first frame, two later, no MLP.

    With `published_scale` the predictor's attention is scaled the wrong way, as in the published code.
    """
    attention = dict(hidden_dim=0, num_iterations=2, first_iterations=3, bilevel=False, epsilon=1e-8)
    return dict(
        initializer=dict(type="SharedGaussian", num_slots=num_slots, dim=dim, std=dim**-0.5),
        slot_attention=dict(type="SlotAttention", dim=dim, normalize_state=True, **attention),
        predictor=dict(type="PreNormBlock", dim=dim, num_heads=4, published_scale=published_scale),
    )


def learned_slots(num_slots: int, dim: int) -> dict:
    """A learned vector per slot."""
    return dict(type="LearnedSlots", num_slots=num_slots, dim=dim)


def shared_slots(num_slots: int, dim: int) -> dict:
    """Slots drawn from one learned Gaussian for all, as in SPOT's first stage."""
    return dict(type="SharedGaussian", num_slots=num_slots, dim=dim)


def autoregressive(grid: list[int], dim: int, num_codes: int, num_layers: int = 4, nine: bool = False) -> dict:
    """Transformer decoder that predicts the codes in raster order, or in one of nine orders, evaluated in that."""
    decoder = dict(type="AutoregressiveTransformer", grid=grid, dim=dim, num_codes=num_codes, num_layers=num_layers)
    if nine:
        decoder |= dict(type="NineOrderTransformer", train_order="random", eval_order="standard")
    return decoder


def broadcast(grid: list[int], slot_dim: int, dim: int, hidden_dim: int = 2048, num_hidden: int = 3) -> dict:
    """MLP decoder that maps slot and position to a feature of `dim` channels and a mask."""
    return dict(type="BroadcastMLP", grid=grid, dims=[slot_dim, *[hidden_dim] * num_hidden, dim])


def mixer(
    grid: list[int],
    slot_dim: int,
    dim: int,
    hidden_dim: int = 1024,
    num_hidden: int = 4,
    published_scale: bool = False,
) -> dict:
    """Slot mixer: a mixture of slots at every place, decoded to a feature of `dim` channels; see also `free_slots`."""
    dims = [slot_dim, *[hidden_dim] * num_hidden, dim]
    return dict(type="SlotMixer", grid=grid, dims=dims, num_layers=2, published_scale=published_scale)
