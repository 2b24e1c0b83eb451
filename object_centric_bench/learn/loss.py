"""Losses: called with a batch and a model's output, they return a weighted scalar, computed in float32 or more."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from object_centric_bench.learn.cross_entropy import mean_cross_entropy
from object_centric_bench.learn.path import fetch_tensor
from object_centric_bench.registry import register


@register
class MSE:
    """Mean squared error to a target through which no gradient flows, mean over all elements.

    Args of the call, by path: prediction and target, float of one shape.
    """

    def __init__(self, prediction: str, target: str, weight: float = 1.0):
        self.prediction = prediction
        self.target = target
        self.weight = weight

    def __call__(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> Tensor:
        """Return the weighted loss, a scalar.

        Raises:
            ConfigError: a path leads to no tensor.
            ValueError: the two shapes differ.
        """
        prediction = fetch_tensor(self.prediction, batch, output, "MSE.prediction")
        target = fetch_tensor(self.target, batch, output, "MSE.target")
        if prediction.shape != target.shape:
            raise ValueError(mismatch("MSE", self.prediction, prediction, self.target, target, "one shape"))
        with torch.autocast(prediction.device.type, enabled=False):
            return self.weight * F.mse_loss(_precise(prediction), _precise(target.detach()))


@register
class CrossEntropy:
    """Cross-entropy of predicted codes, mean over all positions; of codes with groups, the sum over groups of that.

    Args of the call, by path: prediction (b k h w) or (b t k h w) float, logits; target (b h w) or (b t h w) int64,
    code indices below k. With groups (GDR and MSF, Zhao et al.), k is the sum of their sizes, and the target is
    (b g h w) or (b t g h w), the g-th index below the g-th size.

    Args:
        groups: number of codes in each group, in the logits' order; None for codes without groups.
    """

    def __init__(self, prediction: str, target: str, weight: float = 1.0, groups: list[int] | None = None):
        self.prediction = prediction
        self.reads_half = prediction  # in chunks, see `mean_cross_entropy`
        self.target = target
        self.weight = weight
        self.groups = groups

    def __call__(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> Tensor:
        """Return the weighted loss, a scalar.

        Raises:
            ConfigError: a path leads to no tensor.
            ValueError: the shapes do not belong together, or the target holds no int64 indices.
        """
        logits = fetch_tensor(self.prediction, batch, output, "CrossEntropy.prediction")
        target = fetch_tensor(self.target, batch, output, "CrossEntropy.target")
        groups = self.groups
        of_code = logits.shape[:-3] + (() if groups is None else (len(groups),)) + logits.shape[-2:]
        if logits.ndim < 4 or of_code != target.shape or (groups is not None and logits.shape[-3] != sum(groups)):
            wanted = "(b k h w) and (b h w), or (b t k h w) and (b t h w)"
            if groups is not None:
                sizes = f"{sum(groups)} h w) and (b"
                wanted = f"(b {sizes} {len(groups)} h w), or (b t {sizes} t {len(groups)} h w)"
            raise ValueError(mismatch("CrossEntropy", self.prediction, logits, self.target, target, wanted))
        if target.dtype != torch.int64:
            raise ValueError(f"CrossEntropy: {self.target} must hold int64 code indices, not {target.dtype}")
        # classes last: decoders make them there, so this undoes their transpose without a copy, and softmax over
        # neighbouring numbers is faster than over a strided axis
        logits = logits.movedim(-3, -1).flatten(0, -2)  # n k
        parts = [logits] if groups is None else logits.split(groups, dim=1)
        codes = [target] if groups is None else target.movedim(-3, 0)
        means = [mean_cross_entropy(part, code.flatten()) for part, code in zip(parts, codes, strict=True)]
        return self.weight * reduce(torch.add, means)


@register
class UnitNorm:
    """Pull features to zero mean and unit variance: MSE to their own normalised values, taken as constants.

    Zhao et al., "Vector-Quantized Vision Foundation Models for Object-Centric Learning", ACM MM 2025. The target is
    the group norm with one group and no affine map: statistics over all axes of a sample.

    Args of the call, by path: prediction (b c h w) float, or (b t c h w) float for videos.

    Args:
        joint: for videos, take statistics over a whole clip as the reference does, instead of over each frame.
    """

    def __init__(self, prediction: str, weight: float, joint: bool = False):
        self.prediction = prediction
        self.weight = weight
        self.joint = joint

    def __call__(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> Tensor:
        """Return the weighted loss, a scalar.

        Raises:
            ConfigError: the path leads to no tensor.
        """
        prediction = fetch_tensor(self.prediction, batch, output, "UnitNorm.prediction")
        with torch.autocast(prediction.device.type, enabled=False):
            prediction = _precise(prediction)
            if prediction.ndim == 5 and not self.joint:
                prediction = prediction.flatten(0, 1)
            return self.weight * F.mse_loss(prediction, F.group_norm(prediction.detach(), num_groups=1))


def _precise(tensor: Tensor) -> Tensor:
    """Return the tensor in float32; float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def mismatch(loss: str, prediction_path: str, prediction: Tensor, target_path: str, target: Tensor, wanted: str) -> str:
    """Return what to say of two tensors whose shapes do not belong together."""
    return (
        f"{loss}: {prediction_path} is {tuple(prediction.shape)} and {target_path} is {tuple(target.shape)}; "
        f"{wanted} wanted, nothing is broadcast"
    )
