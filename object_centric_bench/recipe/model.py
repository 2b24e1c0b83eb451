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
    """A slot per box of the first frame, refined once per frame, and the predictor of the next frame's slots."""
    return dict(
        initializer=dict(type="BoxMLP", dim=dim),
        slot_attention=dict(type="SlotAttention", dim=dim, hidden_dim=4 * dim, num_iterations=1, bilevel=True),
        predictor=dict(type="SlotPredictor", dim=dim, num_heads=4, hidden_dim=4 * dim),
    )


def autoregressive(grid: list[int], dim: int, num_codes: int, num_layers: int = 4) -> dict:
    """Transformer decoder that predicts the codes in raster order."""
    return dict(type="AutoregressiveTransformer", grid=grid, dim=dim, num_codes=num_codes, num_layers=num_layers)


def broadcast(grid: list[int], slot_dim: int, dim: int, hidden_dim: int = 2048, num_hidden: int = 3) -> dict:
    """MLP decoder that maps slot and position to a feature of `dim` channels and a mask."""
    return dict(type="BroadcastMLP", grid=grid, dims=[slot_dim, *[hidden_dim] * num_hidden, dim])
