"""DINOSAUR (Seitzer et al., ICLR 2023): slots reconstruct a backbone's features."""

from . import model
from .backbone import Backbone


def dinosaur(backbone: Backbone, num_slots: int, slot_dim: int, hidden_dim: int = 2048, num_hidden: int = 3) -> dict:
    """Model, loss and what is frozen."""
    return dict(
        model=dict(
            type="DINOSAUR",
            backbone=backbone.build,
            projection=model.projection(backbone.dim, slot_dim),
            **model.gaussian_slots(num_slots, slot_dim),
            decoder=model.broadcast(backbone.grid, slot_dim, backbone.dim, hidden_dim, num_hidden),
        ),
        loss=dict(recon=dict(type="MSE", prediction="output.reconstruction", target="output.feature")),
        freeze=[r"backbone\..*"],
    )
