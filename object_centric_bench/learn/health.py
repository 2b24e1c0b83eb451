"""Health of slots and gradients: numbers that tell, while a run trains, whether slots share the picture out."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

log = logging.getLogger(__name__)

DUPLICATE = 0.99  # cosine from which on two slots hold the same
ONE_SLOT = 1.2  # effective slots up to which one of them has taken the picture
UNIFORM = 0.98  # entropy of the attention from which on all slots see all places alike
LEARNING = 0.1  # part of the run in which slots may still look alike
REMEDY = "if it lasts, stop it, and try a lower optimizer.lr or another --seed"


@torch.no_grad()
def slot_health(output: Mapping[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return, per sample, how a model's slots share the picture; nothing for models without slots.

    - `slots/effective`: exp of the entropy of the slots' shares of the attention, 1 if one has all, s if all are equal.
    - `slots/dead`: slots that have the largest attention nowhere.
    - `slots/duplicate`: slots whose cosine with an earlier one is above 0.99.
    - `slots/attention_entropy`: of a place's attention over slots, mean over places, as part of log s: 0 is one slot
      per place, 1 the same of all.

    Args:
        output: of the model; `attention` (b s h w) sums to 1 over s, `slots` (b s d); of videos with t after b, whose
            frames count as one picture.

    Returns:
        name -> (value (b) float64, valid (b) bool), as metrics do.
    """
    attention, slots = output.get("attention"), output.get("slots")
    if not isinstance(attention, Tensor) or attention.ndim not in (4, 5) or attention.shape[-3] < 2:
        return {}
    attention = attention.detach().float()
    attention = attention.movedim(-3, 1).flatten(2)  # b s n, frames among the places
    count = attention.shape[1]
    share = attention.mean(dim=2)
    values = {
        "slots/effective": entropy(share, dim=1).exp(),
        "slots/dead": count - (F.one_hot(attention.argmax(dim=1), count).amax(dim=1).sum(dim=1)),
        "slots/attention_entropy": entropy(attention, dim=1).mean(dim=1) / math.log(count),
    }
    if isinstance(slots, Tensor) and slots.shape[-2] == count:
        vector = F.normalize(slots.detach().float() if slots.ndim == 3 else _of_clip(slots), dim=-1)
        alike = (vector @ vector.transpose(1, 2)).tril(-1) > DUPLICATE
        values["slots/duplicate"] = alike.any(dim=2).sum(dim=1)
    valid = torch.ones(len(attention), dtype=torch.bool, device=attention.device)
    return {name: (value.double(), valid) for name, value in values.items()}


def entropy(share: Tensor, dim: int) -> Tensor:
    """Return the entropy in nats of shares that sum to 1 over `dim`."""
    return torch.special.entr(share).sum(dim=dim)


def _of_clip(slots: Tensor) -> Tensor:
    """Return the vectors (b s td) of a clip's slots (b t s d): over time, a slot is one object's."""
    return slots.detach().float().transpose(1, 2).flatten(2)


@torch.no_grad()
def gradient_norms(model: nn.Module) -> dict[str, Tensor]:
    """Return the Euclidean norm of the gradients, as clipped, of each part of a model that has any."""
    norms = {}
    for name, part in model.named_children():
        gradients = [parameter.grad for parameter in part.parameters() if parameter.grad is not None]
        if gradients:
            norms[f"grad_norm/{name}"] = nn.utils.get_total_norm(gradients).float()
    return norms


def without_gradient(model: nn.Module) -> list[str]:
    """Return the names of trained parameters that the present step's loss does not depend on."""
    return [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]


class Watch:
    """Warns, once each, of a collapsed run and of parameters that get no gradient."""

    def __init__(self):
        self.told: set[str] = set()

    def look(self, values: Mapping[str, Any], idle: list[str], step: int, total_steps: int) -> None:
        """Read a line of the log.

        Args:
            values: name -> number, those of `slot_health` among them.
            idle: names of parameters without gradient.
            step, total_steps: where the run is; the first tenth of it is not judged.
        """
        if idle:
            more = f" and {len(idle) - 5} more" if len(idle) > 5 else ""
            self._tell("idle", f"{len(idle)} trained parameters get no gradient: {', '.join(idle[:5])}{more}")
        if step < LEARNING * total_steps or "slots/effective" not in values:
            return
        effective, spread = values["slots/effective"], values["slots/attention_entropy"]
        if effective < ONE_SLOT:
            text = f"collapsed at step {step}: one slot takes the whole picture ({effective:.2f} effective)"
            self._tell("one", f"{text}; {REMEDY}")
        elif spread > UNIFORM:
            text = f"collapsed at step {step}: all slots see all places alike (attention entropy {spread:.3f} of 1)"
            self._tell("uniform", f"{text}; {REMEDY}")

    def _tell(self, kind: str, text: str) -> None:
        if kind not in self.told:
            self.told.add(kind)
            log.warning("warning: %s", text)
