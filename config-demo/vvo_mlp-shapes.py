"""VVO-Mlp on the demo scenes; segments are slot attention's, sharper than the decoder's after so few steps."""

from object_centric_bench.recipe import method, model

from ._parts import SLOT_DIM, codes_of, efficientnet, vvo_stage2, with_positions


def config(grid=16, num_slots=7, batch_size=16, total_steps=1500, lr=1e-3):
    backbone, slots = efficientnet(grid), model.gaussian_slots(num_slots, SLOT_DIM)
    built = method.mixture("VVOMlp", backbone, slots, codes_of(backbone), hidden_dim=256, num_hidden=2)
    return vvo_stage2(with_positions(built, grid), "output.attention", grid, total_steps, lr, batch_size)
