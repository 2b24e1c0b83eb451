"""VVO-Mlp on the demo scenes; segments are slot attention's, sharper than the decoder's after so few steps."""

from object_centric_bench.recipe import vvo

from ._parts import NUM_CODES, SLOT_DIM, efficientnet, vvo_stage2, with_positions


def config(grid=16, num_slots=7, batch_size=16, total_steps=1500, lr=1e-3):
    method = vvo.mlp(efficientnet(grid), num_slots, SLOT_DIM, NUM_CODES, hidden_dim=256, num_hidden=2)
    return vvo_stage2(with_positions(method, grid), "output.attention", grid, total_steps, lr, batch_size)
