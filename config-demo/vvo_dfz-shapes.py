"""VVO-Dfz on the demo scenes: few codes, much noise, tokens without positions; objects part from the background.

They do not part from each other in minutes, see docs/results.md.
"""

from object_centric_bench.recipe import method, model

from ._parts import SLOT_DIM, codes_of, efficientnet, vvo_stage2

CODE_DIM = 4  # as published


def config(grid=12, num_slots=7, batch_size=16, total_steps=600, lr=1e-3):
    backbone, slots = efficientnet(grid), model.gaussian_slots(num_slots, SLOT_DIM)
    tokenizer = codes_of(backbone, width=CODE_DIM, num_codes=16)
    built = method.denoising("VVODfz", backbone, slots, tokenizer, widths=(64,))
    built["model"]["sample_codes"] = False
    built["model"]["initializer"]["std"] = 0.3
    built["model"]["decoder"] |= dict(layers_per_block=1, num_heads=2, dropout=0.0, beta_start=0.02, beta_end=0.05)
    return vvo_stage2(built, "output.attention", grid, total_steps, lr, batch_size, first="vqshapes-c4.py")
