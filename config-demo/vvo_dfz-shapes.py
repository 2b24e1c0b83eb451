"""VVO-Dfz on the demo scenes: a small UNet of one level, which attends to the slots at every place."""

from object_centric_bench.recipe import method, model

from ._parts import SLOT_DIM, codes_of, efficientnet, vvo_stage2, with_positions

CODE_DIM = 4  # as published


def config(grid=12, num_slots=7, batch_size=16, total_steps=1000, lr=1e-3):
    backbone, slots = efficientnet(grid), model.gaussian_slots(num_slots, SLOT_DIM)
    built = method.denoising("VVODfz", backbone, slots, codes_of(backbone, width=CODE_DIM), widths=(64,))
    built["model"]["decoder"] |= dict(layers_per_block=1, num_heads=2, dropout=0.0)
    built = with_positions(built, grid, decoder=False)
    return vvo_stage2(built, "output.attention", grid, total_steps, lr, batch_size, first="vqshapes-c4.py")
