"""Temporal feature similarity: predict for every place of a frame which places of a later frame look like it."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from object_centric_bench.learn.loss import mismatch
from object_centric_bench.learn.path import fetch_tensor
from object_centric_bench.registry import register


@register
class TemporalSimilarity:
    """Cross-entropy of predicted with true similarities between the places of two frames.

    Zadaianchuk et al., NeurIPS 2023 (VideoSAUR), Eqs. 1 to 3; mean over all places of all frames that have a later
    one. The prediction for the last `shift` frames counts nowhere.

    Args:
        prediction: path of logits (b t n h w) float over the n = h w places of frame t + shift.
        feature: path of what similarity is measured on, (b t c h w) float; no gradient flows through it.
        temperature: a small one makes targets sharp; the paper takes 0.075 to 0.25.
        threshold: similarities below it count nothing; None keeps all.
        shift: number of frames between the two.
        weight: factor of the loss.

    Raises:
        ValueError: temperature is not positive, or shift below 1.
    """

    def __init__(
        self,
        prediction: str,
        feature: str,
        temperature: float,
        threshold: float | None = 0.0,
        shift: int = 1,
        weight: float = 1.0,
    ):
        _check(temperature, shift)
        self.prediction, self.feature = prediction, feature
        self.temperature, self.threshold, self.shift = temperature, threshold, shift
        self.weight = weight

    def __call__(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> Tensor:
        """Return the weighted loss, a scalar.

        Raises:
            ConfigError: a path leads to no tensor.
            ValueError: the shapes do not belong together, or the clips have no frame `shift` later.
        """
        logits = fetch_tensor(self.prediction, batch, output, "TemporalSimilarity.prediction")
        feature = fetch_tensor(self.feature, batch, output, "TemporalSimilarity.feature")
        wanted = (*feature.shape[:2], feature.shape[-2:].numel(), *feature.shape[-2:])
        if feature.ndim != 5 or logits.shape != wanted:
            text = "(b t n h w) and (b t c h w) with n = h w"
            raise ValueError(mismatch("TemporalSimilarity", self.prediction, logits, self.feature, feature, text))
        with torch.autocast(logits.device.type, enabled=False):
            target = similarity_target(feature, self.temperature, self.threshold, self.shift)  # b t n m
            logits = logits[:, : -self.shift].flatten(3).transpose(2, 3).to(target.dtype)  # b t n m
            return self.weight * -(target * logits.log_softmax(dim=3)).sum(dim=3).mean()


@torch.no_grad()
def similarity_target(feature: Tensor, temperature: float, threshold: float | None = 0.0, shift: int = 1) -> Tensor:
    """Return how similar every place of a frame is to those of a later frame, as a distribution.

    S[i, j] = cos(feature[t, i], feature[t + shift, j]); the target is the softmax over j of S / temperature, where S
    below the threshold counts nothing. A place without any similarity left gets the same share of all.

    Args:
        feature: (b t c h w) float.
        temperature, threshold, shift: see `TemporalSimilarity`.

    Returns:
        (b t n m) float of the t - shift first frames, at least in float32; n = m = h w, sums to 1 over m.

    Raises:
        ValueError: temperature is not positive, shift below 1, or no frame is `shift` frames later.
    """
    _check(temperature, shift)
    if feature.shape[1] <= shift:
        raise ValueError(f"similarity over {shift} frames needs clips of more frames, not of {feature.shape[1]}")
    feature = feature.to(torch.promote_types(feature.dtype, torch.float32)).flatten(3)  # b t c n
    feature = F.normalize(feature, dim=2)
    cosine = torch.einsum("btcn, btcm -> btnm", feature[:, :-shift], feature[:, shift:])
    if threshold is not None:
        low = cosine < threshold
        cosine = cosine.masked_fill(low & ~low.all(dim=3, keepdim=True), float("-inf"))
        cosine = cosine.masked_fill(low.all(dim=3, keepdim=True), 0.0)
    return (cosine / temperature).softmax(dim=3)


def _check(temperature: float, shift: int) -> None:
    """Raise `ValueError` if temperature or shift are impossible."""
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if shift < 1:
        raise ValueError(f"shift is at least 1 frame, got {shift}")
