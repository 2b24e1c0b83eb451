"""Frozen parts: no autograd, and eval mode whatever the mode of the model around them."""

import torch
from torch import nn


def is_frozen(module: nn.Module) -> bool:
    """Tell whether no parameter of the module is trained."""
    return not any(parameter.requires_grad for parameter in module.parameters())


def no_grad_if_frozen(module: nn.Module) -> torch.set_grad_enabled:
    """Return a context in which autograd records only if the module has something to train."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(module))


class Freezable(nn.Module):
    """A module that stays in eval mode for as long as none of its parameters is trained."""

    def train(self, mode: bool = True) -> "Freezable":
        """Set training or eval mode; a frozen module goes to eval mode in both cases."""
        return super().train(mode and not is_frozen(self))
