"""VVO stage 1 on the demo scenes with codes of 4 channels that give back features, for diffusion decoders.

Codes that give back images are mixtures of texture, and few of 256 drawn ones stay apart, see docs/results.md.
"""

from object_centric_bench.recipe import dataset, learn

from ._parts import efficientnet, stage1_of


def config(grid=12, batch_size=16, total_steps=400, lr=3e-3, num_codes=256, width=4):
    cfg = stage1_of(dataset.shapes, grid, batch_size, total_steps, lr, num_codes=num_codes, width=width)
    cfg["model"]["tokenizer"]["decoder"] = dict(type="FeatureDecoder", dim=width, output_dim=efficientnet(grid).dim)
    del cfg["schedule"]["model"]["tokenizer"]["quantizer"]  # nearest codes: drawn ones pull the codebook together
    cfg["loss"]["recon"]["target"] = "output.feature"
    return cfg | dict(callback=learn.keeping("recon", higher=False, from_step=total_steps // 2))
