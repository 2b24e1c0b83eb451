"""Networks: the parts (backbone, slot attention, decoders, ...) and the methods composed of them.

Importing this package registers every class that a config may name.
"""

from object_centric_bench.model import (
    autoencoder,
    autoregressive,
    backbone,
    broadcast,
    dinosaur,
    initializer,
    mlp,
    position,
    published,
    quantizer,
    slot_attention,
    vvo,
)

__all__ = [
    "autoencoder",
    "autoregressive",
    "backbone",
    "broadcast",
    "dinosaur",
    "initializer",
    "mlp",
    "position",
    "published",
    "quantizer",
    "slot_attention",
    "vvo",
]
