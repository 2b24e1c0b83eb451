"""Networks: the parts (backbone, slot attention, decoders, ...) and the methods composed of them.

Importing this package registers every class that a config may name.
"""

from object_centric_bench.model import (
    autoencoder,
    autoregressive,
    backbone,
    broadcast,
    diffusion,
    dinosaur,
    initializer,
    mlp,
    msf,
    position,
    quantizer,
    slate,
    slot_attention,
    slotdiffusion,
    steve,
    temporal,
    vqvae,
    vvo,
    vvo_video,
)

__all__ = [
    "autoencoder",
    "autoregressive",
    "backbone",
    "broadcast",
    "diffusion",
    "dinosaur",
    "initializer",
    "mlp",
    "msf",
    "position",
    "quantizer",
    "slate",
    "slot_attention",
    "slotdiffusion",
    "steve",
    "temporal",
    "vqvae",
    "vvo",
    "vvo_video",
]
