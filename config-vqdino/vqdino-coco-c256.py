"""VVO stage 1 on COCO: quantize DINOv2 features with 4096 codes of 256 channels."""

from object_centric_bench.recipe import backbone, dataset, vvo


def config(resolution=256, batch_size=64, total_steps=30_000, lr=2e-3, pretrained=True):
    return vvo.stage1(
        backbone.dinov2_small(resolution, pretrained),
        dataset.coco(resolution, batch_size, segment=False),
        code_dim=256,
        num_codes=4096,
        decoder=dict(type="ImageDecoder", dim=256, hidden_dim=256, width=64, pretrained=pretrained),
        total_steps=total_steps,
        lr=lr,
        anneal=True,
    )
