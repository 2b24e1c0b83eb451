"""VVO stage 1 on the demo scenes: quantize EfficientNet-Lite0 features."""

from object_centric_bench.recipe import dataset, vvo

from ._parts import NUM_CODES, RESOLUTION, SLOT_DIM, efficientnet


def config(grid=16, batch_size=16, total_steps=250, lr=2e-3):
    cfg = vvo.stage1(
        efficientnet(grid),
        dataset.shapes(RESOLUTION, batch_size, segment=False),
        code_dim=SLOT_DIM,
        num_codes=NUM_CODES,
        decoder=dict(type="ImageDecoder", dim=SLOT_DIM, hidden_dim=64, width=16, pretrained=False),
        total_steps=total_steps,
        lr=lr,
        anneal=True,
    )
    return cfg | dict(cache_feature=True, eval_every=total_steps // 2)
