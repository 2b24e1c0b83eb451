"""VVO-SmdT on the demo videos; segments are slot attention's, sharper than the decoder's after so few steps."""

from object_centric_bench.recipe import dataset

from ._parts import codes_of, efficientnet, mixed, vvo_stage2


def config(grid=16, num_slots=6, batch_size=4, total_steps=700, lr=1e-3):
    built = mixed(grid, num_slots, codes_of(efficientnet(grid)))
    options = dict(first="vqshapes-video.py", data=dataset.moving_shapes)
    return vvo_stage2(built, "output.attention", grid, total_steps, lr, batch_size, **options)
