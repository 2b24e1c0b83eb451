"""VVO stage 1 on the demo scenes with 16 codes of 4 channels, for diffusion decoders."""

from object_centric_bench.recipe import dataset

from ._parts import stage1_of


def config(grid=12, batch_size=16, total_steps=250, lr=2e-3):
    return stage1_of(dataset.shapes, grid, batch_size, total_steps, lr, num_codes=16, width=4)
