"""VideoSAUR on the demo videos; segments are slot attention's, sharper than the decoder's after so few steps."""

from object_centric_bench.recipe import dataset

from ._parts import mixed, stage2


def config(grid=16, num_slots=6, batch_size=4, total_steps=1000, lr=1e-3):
    built = mixed(grid, num_slots)
    return stage2(built, "output.attention", total_steps, lr, batch_size, data=dataset.moving_shapes)
