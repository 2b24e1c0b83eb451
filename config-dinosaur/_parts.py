"""DINOSAUR."""

from object_centric_bench.recipe import method, model, published


def dinosaur(data, resolution=256):
    """Return `config` of DINOSAUR, which has no first stage."""

    def build(backbone, num_slots, pretrained):
        return method.features(backbone, model.gaussian_slots(num_slots, published.SLOT_DIM))

    return published.experiment(data, build, mask="output.mask", resolution=resolution)
