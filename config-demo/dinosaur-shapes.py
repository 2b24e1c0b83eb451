"""DINOSAUR on the demo scenes."""

from object_centric_bench.recipe import method, model

from ._parts import SLOT_DIM, efficientnet, stage2, with_positions


def config(grid=16, num_slots=7, batch_size=16, total_steps=1500, lr=1e-3):
    slots = model.gaussian_slots(num_slots, SLOT_DIM)
    built = method.features(efficientnet(grid), slots, hidden_dim=256, num_hidden=2)
    return stage2(with_positions(built, grid), "output.mask", total_steps, lr, batch_size)
