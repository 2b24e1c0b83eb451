"""DINOSAUR (Seitzer et al., ICLR 2023) on COCO with DINOv2 ViT-S/14."""

from object_centric_bench.recipe import backbone, dataset, learn
from object_centric_bench.recipe.dinosaur import dinosaur


def config(resolution=256, num_slots=7, batch_size=32, total_steps=50_000, lr=2e-4, pretrained=True):
    return dict(
        **dinosaur(backbone.dinov2_small(resolution, pretrained), num_slots, slot_dim=256),
        dataset=dataset.coco(resolution, batch_size),
        **learn.adam_with_warmup(lr=lr, total_steps=total_steps),
        **learn.segmentation(mask="output.mask", size=[resolution, resolution]),
    )
