"""The perceptual loss LPIPS: how far apart two pictures are for a network that was trained to see."""

import importlib.util
import pickle
import urllib.error
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from object_centric_bench.learn.loss import mismatch
from object_centric_bench.learn.path import fetch_tensor
from object_centric_bench.registry import register

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"  # torchvision's AlexNet_Weights.IMAGENET1K_V1
ALEXNET_URL = f"https://download.pytorch.org/models/{ALEXNET_FILE}"
ALEXNET_LAYERS = (0, 3, 6, 8, 10)  # torchvision's numbers of the convolutions, `features.0` and so on
HEADS_PACKAGE, HEADS_FILE = "lpips", "weights/v0.1/alex.pth"
EPSILON = 1e-10
SMALLEST = 31  # pixels; below that AlexNet's second pooling has nothing to pool


class PerceptualWeightsError(ValueError):
    """Weights of LPIPS that cannot be had or do not fit; the text says how to supply them."""


@register
class LPIPS(nn.Module):
    """Learned perceptual image patch similarity, v0.1 with AlexNet, to a target through which no gradient flows.

    Zhang et al., CVPR 2018, Eq. 1. Its network stays fixed; unlike other losses it has to be moved to the device.

    Args of the call, by path: prediction and target (b 3 h w) or (b t 3 h w) float, ImageNet-normalised.

    Args:
        prediction, target: their paths.
        weight: factor of the loss.
        pretrained: False takes random weights, for tests only.
        weights: local file of torchvision's AlexNet; None asks torch's cache, then downloads it. The loss's own
            weights come with the Python package `lpips`.
        rescale: apply LPIPS' input shift and scale, which are meant for pictures in [-1, 1], as in the published runs.
            False leaves the pictures ImageNet-normalised, which is what the network was trained on.

    Raises:
        PerceptualWeightsError: weights cannot be had.
        ValueError: weights are given but pretrained is False.
    """

    def __init__(
        self,
        prediction: str,
        target: str,
        weight: float = 1.0,
        pretrained: bool = True,
        weights: str | None = None,
        rescale: bool = False,
    ):
        if weights is not None and not pretrained:
            raise ValueError(f"weights {weights!r} are given but pretrained is False")
        super().__init__()
        self.prediction = prediction
        self.target = target
        self.weight = weight
        self.network = PerceptualDistance(rescale)
        if pretrained:
            self.network.load(read_alexnet(weights), read_heads())
        self.network.requires_grad_(False).eval()

    def forward(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> Tensor:
        """Return the weighted loss, a scalar.

        Raises:
            ConfigError: a path leads to no tensor.
            ValueError: the two shapes differ, or are not those of pictures that are large enough.
        """
        prediction = fetch_tensor(self.prediction, batch, output, "LPIPS.prediction")
        target = fetch_tensor(self.target, batch, output, "LPIPS.target")
        shape = prediction.shape
        if shape != target.shape or len(shape) < 4 or shape[-3] != 3 or min(shape[-2:]) < SMALLEST:
            wanted = f"one shape (b 3 h w) or (b t 3 h w) with h and w of {SMALLEST} pixels or more, for AlexNet,"
            raise ValueError(mismatch("LPIPS", self.prediction, prediction, self.target, target, wanted))
        with torch.autocast(prediction.device.type, enabled=False):
            distance = self.network(prediction.flatten(0, -4).float(), target.flatten(0, -4).detach().float())
            return self.weight * distance.mean()


class PerceptualDistance(nn.Module):
    """Compare the ReLU outputs of AlexNet's five convolutions (Krizhevsky, 2014), place by place.

    Args:
        rescale: shift and scale pictures first, see `LPIPS`.
    """

    def __init__(self, rescale: bool = False):
        super().__init__()
        self.rescale = rescale
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(3, 64, 11, stride=4, padding=2),
                nn.Conv2d(64, 192, 5, padding=2),
                nn.Conv2d(192, 384, 3, padding=1),
                nn.Conv2d(384, 256, 3, padding=1),
                nn.Conv2d(256, 256, 3, padding=1),
            ]
        )
        for index, conv in enumerate(self.convs):
            weights = torch.rand(len(conv.weight))  # of the channels, positive
            self.register_buffer(f"head_{index}", weights)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])

    def load(self, alexnet: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        """Fill in weights.

        Args:
            alexnet: by torchvision's names, `features.0.weight` and so on; others are not used.
            heads: by the names of the package lpips, `lin0.model.1.weight` and so on, (1 c 1 1) each.

        Raises:
            PerceptualWeightsError: some are missing or of another shape.
        """
        state = {"shift": self.shift, "scale": self.scale}
        for index, layer in enumerate(ALEXNET_LAYERS):
            for kind in ("weight", "bias"):
                if f"features.{layer}.{kind}" in alexnet:
                    state[f"convs.{index}.{kind}"] = alexnet[f"features.{layer}.{kind}"]
            if f"lin{index}.model.1.weight" in heads:
                state[f"head_{index}"] = heads[f"lin{index}.model.1.weight"].flatten()
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            raise PerceptualWeightsError(f"weights for LPIPS do not fit: {error}") from error

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the distance (b) float of pictures (b 3 h w) float from their targets."""
        with torch.no_grad():
            wanted = self.features(target)
        distances = []
        for index, (ours, theirs) in enumerate(zip(self.features(prediction), wanted, strict=True)):
            head = getattr(self, f"head_{index}")
            distances.append(torch.einsum("bchw,c->bhw", (ours - theirs).square(), head).mean(dim=(1, 2)))
        return reduce(torch.add, distances)

    def features(self, image: Tensor) -> list[Tensor]:
        """Return five maps (b c h w) of pictures (b 3 h w), of unit length at every place."""
        hidden = (image - self.shift) / self.scale if self.rescale else image
        found = []
        for index, conv in enumerate(self.convs):
            if index in (1, 2):
                hidden = F.max_pool2d(hidden, 3, stride=2)
            hidden = F.relu(conv(hidden))
            found.append(hidden / (torch.linalg.vector_norm(hidden, dim=1, keepdim=True) + EPSILON))
        return found


def read_heads() -> dict[str, Tensor]:
    """Read the channel weights of LPIPS v0.1 from the package lpips, without importing it.

    Raises:
        PerceptualWeightsError: the package is not installed, or holds no such file.
    """
    found = importlib.util.find_spec(HEADS_PACKAGE)
    if found is None or found.origin is None:
        raise PerceptualWeightsError(f"LPIPS: no package {HEADS_PACKAGE}; install it with `pip install lpips`")
    return _read(Path(found.origin).parent / HEADS_FILE)


def read_alexnet(weights: str | None) -> dict[str, Tensor]:
    """Read torchvision's AlexNet from a local file, torch's cache, or else the internet.

    Raises:
        PerceptualWeightsError: it cannot be had.
    """
    if weights is not None:
        return _read(Path(weights))
    cached = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET_FILE
    if not cached.is_file():
        try:
            torch.hub.load_state_dict_from_url(ALEXNET_URL, map_location="cpu", check_hash=True, weights_only=True)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise PerceptualWeightsError(
                f"no AlexNet for LPIPS: {cached} is not there, and {ALEXNET_URL} cannot be had ({error}). Download it "
                "elsewhere and give the file as `weights`, or put it there"
            ) from error
    return _read(cached)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise PerceptualWeightsError(f"LPIPS: no weights file {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise PerceptualWeightsError(f"LPIPS: {path} cannot be read as weights: {error}") from error
