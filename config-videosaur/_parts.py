"""VideoSAUR: on DINOv2 ViT-S/14 like the other methods here, and as in the paper."""

from object_centric_bench.recipe import backbone, learn, method, model, published

DIM = 64
PAPER_DIM = 128  # of slots on MOVi


def videosaur(data):
    """Return `config` of VideoSAUR, which has no first stage, with the attention scale that is usual."""

    def build(backbone, num_slots, pretrained):
        return method.similarity(backbone, model.free_slots(num_slots, DIM))

    return published.experiment(data, build, mask="output.mask", boxes=False)


def paper_data(data, resolution, batch_size):
    """Return the dataset section of the paper: clips of four frames, enlarged as they are, flipped at random."""
    section = published.data(data, resolution, batch_size, num_boxes=0, frames=4)
    keys = section["train"]["keys"]
    _, videos, masks = section["eval"]["transforms"]
    whole = [videos | dict(mode="bicubic"), masks]
    section["eval"]["transforms"] = whole
    section["train"]["transforms"] = [*whole, dict(type="RandomFlip", keys=keys, p=0.5)]
    return section


def paper(data):
    """Return `config` of VideoSAUR as in the paper on MOVi: nothing but similarities of DINO's keys is predicted."""

    def config(num_slots=published.UNBOXED[data], batch_size=128, total_steps=100_000, lr=4e-4, pretrained=True):
        found = backbone.dino_base(224, pretrained, patch=8)
        slots = model.free_slots(num_slots, PAPER_DIM, published_scale=True)
        steps = dict(warmup_steps=total_steps // 40, total_steps=total_steps)
        factor = dict(type="LinearExponential", **steps, start=0.0, peak=1.0, final=0.5)
        return dict(
            **method.similarity(found, slots, temperature=0.075, reconstruct=False),
            dataset=paper_data(data, 224, batch_size),
            precision="no",
            protocol=["vvo", "videosaur"],
            **learn.adam(lr, factor, max_grad_norm=0.05),
            **learn.segmentation(mask="output.mask", size=[224, 224]),
        )

    return config
