"""TAESD, madebyollin's distilled autoencoder of Stable Diffusion: its layers, and where their weights come from.

They are diffusers' `AutoencoderTiny` under the same names, to which importing diffusers would add seconds at every
start. A test compares the two.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from object_centric_bench.model.weights import WeightsError, find_on_hub, mark, read_file

TAESD = "madebyollin/taesd"
TAESD_FILE = "diffusion_pytorch_model.safetensors"
LATENT_DIM = 4  # channels of Stable Diffusion's latents

log = logging.getLogger(__name__)


class Block(nn.Module):
    """Three 3x3 convolutions with ReLU between them, added to their input, and a ReLU."""

    def __init__(self, width: int):
        super().__init__()
        convs = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])
        self.fuse = nn.ReLU()

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (b c h w) to (b c h w)."""
        return self.fuse(self.conv(hidden) + hidden)


def encoder_layers(width: int) -> nn.Sequential:
    """Return the 15 layers of the encoder, images (b 3 h w) to latents (b 4 h/8 w/8)."""
    layers = [nn.Conv2d(3, width, 3, padding=1), Block(width)]
    for _ in range(3):
        layers.append(nn.Conv2d(width, width, 3, padding=1, stride=2, bias=False))
        layers += [Block(width) for _ in range(3)]
    return nn.Sequential(*layers, nn.Conv2d(width, LATENT_DIM, 3, padding=1))


def decoder_layers(width: int) -> nn.Sequential:
    """Return the 19 layers of the decoder, latents (b 4 h w) to images (b 3 8h 8w)."""
    layers = [nn.Conv2d(LATENT_DIM, width, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        layers += [Block(width) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, Block(width), nn.Conv2d(width, 3, 3, padding=1))


def taesd_layers(
    side: str, indices: Iterable[int], width: int, pretrained: bool, weights: str | None = None
) -> nn.ModuleDict:
    """Return layers of TAESD's encoder or decoder under their authors' numbers.

    Args:
        side: "encoder" or "decoder".
        indices: the layers to keep; the encoder has 15, the decoder 19.
        width: their channels; TAESD has 64.
        pretrained: load TAESD's weights.
        weights: local file of them (diffusers format); None asks the hub and its cache.

    Raises:
        ValueError: weights are given but not to be loaded.
        WeightsError: the weights cannot be had or have another width.
    """
    if weights is not None and not pretrained:
        raise ValueError(f"weights {weights!r} are given but pretrained is False")
    # both are made, as diffusers does: whatever draws its first weights afterwards draws the same with a given seed
    network = {"encoder": encoder_layers(width), "decoder": decoder_layers(width)}
    layers = network[side]
    kept = nn.ModuleDict({str(index): layers[index] for index in indices})
    if pretrained:
        mark(kept, _load_taesd(layers, side, width, weights))
    else:
        log.warning("image %s starts from random weights", side)
    return kept


def _load_taesd(layers: nn.Module, side: str, width: int, weights: str | None) -> Path:
    """Fill all layers of one side from a local file or the hub, and return that file; for errors see `taesd_layers`."""
    source = weights if weights is not None else find_on_hub(TAESD, [TAESD_FILE], f"the image {side} (TAESD)")
    prefix = f"{side}.layers."
    read = read_file(source)
    # The reference loads them in half precision; rounding keeps a start from the same numbers.
    state = {key.removeprefix(prefix): value.half().float() for key, value in read.items() if key.startswith(prefix)}
    try:
        layers.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{source} does not fit a TAESD {side} of width {width}: {error}") from error
    return read.file
