"""The nine orders in which SPOT reads the patches of a grid."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

NUM_ORDERS = 9
STANDARD = 0  # rows from top to bottom, each from left to right
MODES = ("standard", "random", "all")


def patch_orders(height: int, width: int) -> Tensor:
    """Return the orders (9 n) int64: entry i of an order is the place that is visited as the i-th, counted row by row.

    Kakogeorgiou et al., CVPR 2024 (SPOT), sequence permutations. Order 0 is the standard one, 1 to 7 start in another
    corner or run along columns, 8 is a spiral from the centre to the top right corner, counter-clockwise.

    Raises:
        ValueError: the grid is empty.
    """
    if height < 1 or width < 1:
        raise ValueError(f"a grid is at least 1 x 1, got {height} x {width}")
    rows = torch.arange(height * width).view(height, width)
    scans = [
        rows,
        rows.T,  # columns left to right, each downwards
        rows.flip(1).T,  # columns right to left, downwards
        rows.flip(1),  # rows downwards, right to left
        rows.flip(0, 1).T,  # columns right to left, upwards
        rows.flip(0, 1),  # rows upwards, right to left
        rows.flip(0).T,  # columns left to right, upwards
        rows.flip(0),  # rows upwards, left to right
    ]
    return torch.stack([*(scan.flatten() for scan in scans), spiral(rows)])


def spiral(rows: Tensor) -> Tensor:
    """Return the entries of a map (h w) along a spiral from its centre outwards (h w)."""
    sides = []
    while rows.numel():  # inwards: take the right column downwards, turn what is left so that its bottom row is right
        sides.append(rows[:, -1])
        rows = rows[:, :-1].rot90()
    return torch.cat(sides).flip(0)


class PatchOrders(nn.Module):
    """Decodes tokens in one of the nine orders, or in all of them, and puts the results back in place.

    The order is drawn once per call, for the whole batch, from torch's global generator on the CPU: no device waits.

    Args:
        grid: [h, w] of the patches.
        train: in training, "standard" takes the first order, "random" draws one, "all" averages over the nine.
        evaluate: the same in eval mode.

    Raises:
        ValueError: another mode.
    """

    def __init__(self, grid: Sequence[int], train: str = "random", evaluate: str = "standard"):
        super().__init__()
        for name, mode in (("train", train), ("evaluate", evaluate)):
            if mode not in MODES:
                raise ValueError(f"{name} is one of {', '.join(MODES)}, got {mode!r}")
        self.modes = {True: train, False: evaluate}
        order = patch_orders(*grid)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("inverse", order.argsort(dim=1), persistent=False)

    def choose(self) -> list[int]:
        """Return the indices of the orders to decode in, by mode; draws one for "random"."""
        mode = self.modes[self.training]
        if mode == "all":
            return list(range(NUM_ORDERS))
        return [STANDARD if mode == "standard" else int(torch.randint(NUM_ORDERS, ()))]

    def arrange(self, tokens: Tensor, index: int) -> Tensor:
        """Bring tokens (b n d) from their places into an order."""
        return tokens[:, self.order[index]]

    def restore(self, tokens: Tensor, index: int) -> Tensor:
        """Bring tokens (b n d) from an order back to their places."""
        return tokens[:, self.inverse[index]]

    def decode(self, tokens: Tensor, decode_one: Callable[[Tensor, int], tuple[Tensor, ...]]) -> list[Tensor]:
        """Decode in the chosen orders.

        Args:
            tokens: (b n d) float, in their places.
            decode_one: from the tokens in an order, and its index, to tensors (b n ...) in that order.

        Returns:
            those tensors, in place, means over the orders.
        """
        chosen = self.choose()
        total: list[Tensor] = []
        for index in chosen:
            parts = [self.restore(part, index) for part in decode_one(self.arrange(tokens, index), index)]
            total = parts if not total else [old + new for old, new in zip(total, parts, strict=True)]
        return [part / len(chosen) for part in total] if len(chosen) > 1 else total


def shift(tokens: Tensor, start: Tensor) -> Tensor:
    """Return what predicts each of the tokens (b n d): the one before it, for the first the vector `start` (d)."""
    return torch.cat([start.expand(len(tokens), 1, -1), tokens[:, :-1]], dim=1)
