"""VVO-Tfd on the demo scenes, with what makes it separate objects in minutes, see docs/results.md.

Few codes; and a decoder of one block and one head that reads no codes in training, so that slots tell all of them.
"""

from object_centric_bench.recipe import method, model

from ._parts import SLOT_DIM, codes_of, efficientnet, vvo_stage2, with_positions


def config(grid=12, num_slots=7, batch_size=16, total_steps=1000, lr=1e-3, token_dropout=1.0):
    backbone, slots = efficientnet(grid), model.gaussian_slots(num_slots, SLOT_DIM)
    built = method.codes("VVOTfd", backbone, slots, codes_of(backbone, num_codes=16), num_layers=1)
    built["model"]["sample_codes"] = False
    built["model"]["decoder"] |= dict(num_heads=1, token_dropout=token_dropout)
    built = with_positions(built, grid)
    return vvo_stage2(built, "output.attention", grid, total_steps, lr, batch_size, first="vqshapes-k16.py")
