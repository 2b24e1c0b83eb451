"""VVO-Tfd (Zhao et al., 2025) on COCO: slots predict the codes of DINOv2 features by a transformer."""

from object_centric_bench.recipe import backbone, vvo

from ._parts import coco_stage2


def config(resolution=256, num_slots=7, batch_size=32, total_steps=50_000, lr=2e-4, pretrained=True):
    method = vvo.tfd(backbone.dinov2_small(resolution, pretrained), num_slots, slot_dim=256, num_codes=4096)
    return coco_stage2(method, "output.attention", resolution, batch_size, total_steps, lr)
