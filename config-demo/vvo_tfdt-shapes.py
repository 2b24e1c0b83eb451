"""VVO-TfdT on the demo videos."""

from object_centric_bench.recipe import dataset, method, model

from ._parts import SLOT_DIM, codes_of, efficientnet, vvo_stage2, with_positions


def config(grid=16, num_slots=6, batch_size=4, total_steps=700, lr=1e-3):
    backbone, slots = efficientnet(grid), model.box_slots(SLOT_DIM)
    slots["initializer"] = dict(type="PerSlotGaussian", num_slots=num_slots, dim=SLOT_DIM)
    slots["slot_attention"] |= dict(first_iterations=3)
    built = method.codes("VVOTfdT", backbone, slots, codes_of(backbone), num_layers=2)
    options = dict(first="vqshapes-video.py", data=dataset.moving_shapes)
    return vvo_stage2(with_positions(built, grid), "output.attention", grid, total_steps, lr, batch_size, **options)
