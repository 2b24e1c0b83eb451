"""VideoSAUR on DINOv2 ViT-S/14, with slots of width 64 and the attention scale that is usual."""

from object_centric_bench.recipe import method, model, published

DIM = 64


def videosaur(data):
    """Return `config` of VideoSAUR, which has no first stage."""

    def build(backbone, num_slots, pretrained):
        return method.similarity(backbone, model.free_slots(num_slots, DIM))

    return published.experiment(data, build, mask="output.mask", boxes=False)
