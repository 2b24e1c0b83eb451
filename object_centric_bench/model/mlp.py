"""Multi-layer perceptron, and the rules by which some parts start."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from object_centric_bench.registry import register


@register
class MLP(nn.Module):
    """Linear layers with an activation between them: [norm], linear, activation, [dropout], ..., linear.

    The two projections of the reference are `MLP([c, 2 * c, d], norm=True)` and, without activation,
    `MLP([c, 2 * c, d], activation=None, dropout=0.01)`.

    Args:
        dims: widths, input first.
        norm: start with a LayerNorm.
        activation: "gelu" (exact), "relu", "silu", or None for none.
        dropout: probability, after each activation.
    """

    def __init__(self, dims: list[int], norm: bool = False, activation: str | None = "gelu", dropout: float = 0.0):
        super().__init__()
        if len(dims) < 2:
            raise ValueError(f"dims names at least an input and an output width, got {dims}")
        activations = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, None: nn.Identity}
        if activation not in activations:
            raise ValueError(f"activation is one of {', '.join(map(str, activations))}, got {activation!r}")
        self.input_dim, self.dim = dims[0], dims[-1]
        self.norm = nn.LayerNorm(dims[0]) if norm else nn.Identity()
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(dims))
        self.activation = activations[activation]()
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (... c) float to (... d) float."""
        tokens = self.norm(tokens)
        for layer in self.layers[:-1]:
            tokens = self.dropout(self.activation(layer(tokens)))
        return self.layers[-1](tokens)


def zero_biases(module: nn.Module) -> None:
    """Set the biases of all linear, convolution and GRU layers to zero; weights keep their initial values."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d, nn.GRUCell)):
            for name, parameter in part.named_parameters(recurse=False):
                if name.startswith("bias"):
                    nn.init.zeros_(parameter)


@torch.no_grad()
def start_by_xavier(module: nn.Module) -> None:
    """Draw the weights of all linear and GRU layers anew as in SPOT's code, with zero biases.

    Linear layers and what a GRU makes of its input start by Xavier's rule (Glorot and Bengio, AISTATS 2010), an MLP's
    layers before a ReLU by Kaiming's (He et al., ICCV 2015), and what a GRU makes of its state is orthogonal.
    """
    zero_biases(module)
    for part in reversed(list(module.modules())):  # an MLP comes after its layers, so its rule holds for them
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
        elif isinstance(part, nn.GRUCell):
            nn.init.xavier_uniform_(part.weight_ih)
            nn.init.orthogonal_(part.weight_hh)
        elif isinstance(part, MLP) and isinstance(part.activation, nn.ReLU):
            for layer in part.layers[:-1]:
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
