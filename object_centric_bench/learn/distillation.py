"""Distillation of masks: a teacher's segments, matched to the student's slots, are the student's labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from object_centric_bench.learn.loss import mismatch
from object_centric_bench.learn.path import fetch_tensor
from object_centric_bench.registry import register

EMPTY_COST = 1000.0  # of matching a teacher's slot without any place, whichever the student's slot


@register
class MatchedDistillation:
    """Cross-entropy of a student's attention over slots with the places that its teacher gives each slot.

    Kakogeorgiou et al., CVPR 2024 (SPOT), self-training. With k(n) = argmax_k mask[k, n] the teacher's slot at a place,
    and r the matching of its slots with the student's that has the least sum over k of 1 - IoU, the Hungarian method's,

        L = -mean over n of log softmax_s(logits[s, n]) at s = r(k(n)).

    Args of the call, by path: prediction (b s h w) float, the student's logits over s; teacher (b s h w) float, masks.

    Args:
        prediction, teacher: the paths.
        weight: of the loss; `schedule.loss.<name>.weight` drives it.
    """

    def __init__(
        self,
        prediction: str = "output.attention_logits",
        teacher: str = "output.teacher_mask",
        weight: float = 0.005,
    ):
        self.prediction = prediction
        self.teacher = teacher
        self.weight = weight

    def __call__(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> Tensor:
        """Return the weighted loss, a scalar; no gradient flows through teacher and matching.

        Raises:
            ConfigError: a path leads to no tensor.
            ValueError: the two shapes differ.
        """
        logits = fetch_tensor(self.prediction, batch, output, "MatchedDistillation.prediction")
        teacher = fetch_tensor(self.teacher, batch, output, "MatchedDistillation.teacher")
        if logits.shape != teacher.shape or logits.ndim != 4:
            wanted = "both (b s h w)"
            raise ValueError(mismatch("MatchedDistillation", self.prediction, logits, self.teacher, teacher, wanted))
        label = teacher.argmax(dim=1)
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            match = match_slots(logits, label)
            matched = logits.gather(1, match[:, :, None, None].expand_as(logits))
            return self.weight * F.cross_entropy(matched, label)


@torch.no_grad()
def match_slots(logits: Tensor, label: Tensor) -> Tensor:
    """Return the student's slot for each of the teacher's (b s) int64, such that their segments overlap most.

    The costs of the whole batch go to the CPU in one transfer, the only one of a training step.

    Args:
        logits: (b s h w) float, of the student; the largest over s decides whose a place is.
        label: (b h w) int64, the teacher's slot at every place.
    """
    taught, seen = (segments(slot.flatten(1), logits.shape[1]) for slot in (label, logits.argmax(dim=1)))
    cost = 1 - pairwise_iou(taught, seen)  # b s s
    cost = cost.masked_fill(taught.sum(dim=2, keepdim=True) == 0, EMPTY_COST)
    found = [linear_sum_assignment(one)[1] for one in cost.cpu().numpy()]  # rows come sorted
    return torch.from_numpy(np.stack(found).astype(np.int64)).to(label.device, non_blocking=True)


def segments(slot: Tensor, count: int) -> Tensor:
    """Return one map (b s n) float of zeros and ones per slot, from the slot at every place (b n) int64."""
    return (slot[:, None] == torch.arange(count, device=slot.device)[:, None]).float()


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union (b s r) of all pairs of segments (b s n) and (b r n); 0 if both are empty."""
    both = first @ second.transpose(1, 2)
    either = first.sum(dim=2)[:, :, None] + second.sum(dim=2)[:, None] - both
    return both / either.clamp_min(1e-6)
