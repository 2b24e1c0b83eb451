"""SPOT on the demo scenes."""

from ._parts import spot_on_shapes, stage2


def config(grid=16, num_slots=7, batch_size=16, total_steps=1500, lr=1e-3):
    return stage2(spot_on_shapes(grid, num_slots), "output.attention", total_steps, lr, batch_size)
