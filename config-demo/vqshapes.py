"""VVO stage 1 on the demo scenes: quantize EfficientNet-Lite0 features."""

from object_centric_bench.recipe import dataset, stage1, tokenizer

from ._parts import LOGIT_SCALE, RESOLUTION, SLOT_DIM, codes_of, efficientnet


def config(grid=16, batch_size=16, total_steps=250, lr=2e-3):
    backbone = efficientnet(grid)
    decoder = tokenizer.feature_decoder(SLOT_DIM, pretrained=False, hidden_dim=64, channels=16)
    cfg = stage1.stage1(
        model=dict(type="VQDINO", backbone=backbone.build, tokenizer=codes_of(backbone, 0.0, decoder)),
        dataset=dataset.shapes(RESOLUTION, batch_size, segment=False),
        total_steps=total_steps,
        lr=lr,
        freeze=[r"backbone\..*"],
        schedule=stage1.projected(total_steps, LOGIT_SCALE, anneal=True),
    )
    return cfg | dict(cache_feature=True, eval_every=total_steps // 2)
