"""VVO-Dfz on the demo scenes, with what makes it separate objects in minutes, see docs/results.md.

Codes that give back features, a short diffusion that ends in noise, and a decoder that denoises every place by itself.
"""

from object_centric_bench.recipe import method, model

from ._parts import SLOT_DIM, codes_of, efficientnet, vvo_stage2, with_positions

CODE_DIM = 4  # as published


def config(grid=12, num_slots=7, batch_size=16, total_steps=1200, lr=1e-3):
    backbone, slots = efficientnet(grid), model.gaussian_slots(num_slots, SLOT_DIM)
    built = method.denoising("VVODfz", backbone, slots, codes_of(backbone, width=CODE_DIM))
    built["model"]["sample_codes"] = False
    noise = dict(num_steps=100, beta_start=0.02, beta_end=0.08)  # of the variance 98 % are left at first, 1 % at last
    sizes = dict(grid=[grid, grid], latent_dim=CODE_DIM, dim=SLOT_DIM, width=SLOT_DIM)
    built["model"]["decoder"] = dict(type="PlaceDiffusionDecoder", **sizes, **noise)
    built = with_positions(built, grid)
    return vvo_stage2(built, "output.attention", grid, total_steps, lr, batch_size, first="vqshapes-c4.py")
