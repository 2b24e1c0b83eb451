"""VVO (Zhao et al., 2025): the tokenizers of DINOv2 features, and the methods that start from them."""

from object_centric_bench.recipe import method, model, published, tokenizer

DIM = published.SLOT_DIM
MIXER_DIM = 64  # of slots that a mixer decodes


def vqdino(data, width, resolution=256):
    """Return `config` of the first stage with codes of `width` channels."""
    return published.feature_tokenizer(data, width, resolution)


def codes_of(backbone, width):
    """Return the tokenizer of a second stage."""
    return tokenizer.simvq(backbone.dim, width, tokenizer.NUM_CODES, tokenizer.LOGIT_SCALE)


def tfd(data, resolution=256):
    """Return `config` of VVO-Tfd."""

    def build(backbone, num_slots, pretrained):
        slots = model.gaussian_slots(num_slots, DIM)
        return method.codes("VVOTfd", backbone, slots, codes_of(backbone, 256), linear=True)

    return published.experiment(data, build, pretrain=f"vqdino-{data}-c256", resolution=resolution)


def tfd9(data):
    """Return `config` of VVO-Tfd9, whose decoder reads the codes in nine orders."""

    def build(backbone, num_slots, pretrained):
        slots = model.gaussian_slots(num_slots, DIM)
        return method.codes("VVOTfd9", backbone, slots, codes_of(backbone, 256), linear=True, nine=True)

    return published.experiment(data, build, mask="output.mask", pretrain=f"vqdino-{data}-c256")


def mlp(data, resolution=256):
    """Return `config` of VVO-Mlp."""

    def build(backbone, num_slots, pretrained):
        return method.mixture("VVOMlp", backbone, model.gaussian_slots(num_slots, DIM), codes_of(backbone, 256))

    pretrain = f"vqdino-{data}-c256"
    return published.experiment(data, build, mask="output.mask", pretrain=pretrain, resolution=resolution)


def dfz(data, resolution=256):
    """Return `config` of VVO-Dfz."""

    def build(backbone, num_slots, pretrained):
        slots = model.gaussian_slots(num_slots, DIM)
        return method.denoising("VVODfz", backbone, slots, codes_of(backbone, 4), linear=True)

    return published.experiment(data, build, pretrain=f"vqdino-{data}-c4", resolution=resolution)


def tfdt(data):
    """Return `config` of VVO-TfdT."""

    def build(backbone, num_slots, pretrained):
        return method.codes("VVOTfdT", backbone, model.box_slots(DIM), codes_of(backbone, 256), linear=True)

    return published.experiment(data, build, pretrain=f"vqdino-{data}-c256")


def smdt(data):
    """Return `config` of VVO-SmdT."""

    def build(backbone, num_slots, pretrained):
        return method.similarity(backbone, model.free_slots(num_slots, MIXER_DIM), codes_of(backbone, 256))

    return published.experiment(data, build, mask="output.mask", pretrain=f"vqdino-{data}-c256", boxes=False)
