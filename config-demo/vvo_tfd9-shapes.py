"""VVO-Tfd9 on the demo scenes."""

from object_centric_bench.recipe import method, model

from ._parts import SLOT_DIM, codes_of, efficientnet, vvo_stage2, with_positions


def config(grid=16, num_slots=7, batch_size=16, total_steps=1500, lr=1e-3):
    backbone, slots = efficientnet(grid), model.gaussian_slots(num_slots, SLOT_DIM)
    built = method.codes("VVOTfd9", backbone, slots, codes_of(backbone), num_layers=2, nine=True)
    return vvo_stage2(with_positions(built, grid), "output.attention", grid, total_steps, lr, batch_size)
