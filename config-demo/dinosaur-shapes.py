"""DINOSAUR on the demo scenes."""

from object_centric_bench.recipe.dinosaur import dinosaur

from ._parts import SLOT_DIM, efficientnet, stage2, with_positions


def config(grid=16, num_slots=7, batch_size=16, total_steps=1500, lr=1e-3):
    method = dinosaur(efficientnet(grid), num_slots, SLOT_DIM, hidden_dim=256, num_hidden=2)
    return stage2(with_positions(method, grid), "output.mask", total_steps, lr, batch_size)
