"""SPOT on the demo scenes, second stage: slots taught by the first, with the backbone's last blocks trained too."""

from object_centric_bench.recipe import method

from ._parts import spot_on_shapes, stage2


def config(grid=16, num_slots=7, batch_size=16, total_steps=500, lr=3e-4, weight=0.005):
    built = method.distilled(spot_on_shapes(grid, num_slots), r"blocks\.2", weight)
    pretrain = method.first_stage_of_spot("spot-shapes.py", grid=grid, num_slots=num_slots)
    cfg = stage2(built, "output.attention", total_steps, lr, batch_size, pretrain)
    return cfg | dict(cache_feature=False)
