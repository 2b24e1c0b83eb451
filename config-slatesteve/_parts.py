"""SLATE, STEVE, and the image tokenizer that both start from."""

from object_centric_bench.recipe import method, model, published, tokenizer

WIDTH = 256  # channels of a code, and of a slot


def vqvae(data, resolution=256):
    """Return `config` of the first stage."""
    return published.image_tokenizer(data, "vq", WIDTH, resolution)


def slate(data, resolution=256):
    """Return `config` of SLATE."""

    def build(backbone, num_slots, pretrained):
        return method.codes("SLATE", backbone, model.gaussian_slots(num_slots, WIDTH), tokenizer.vq(WIDTH, pretrained))

    return published.experiment(data, build, pretrain=f"vqvae-{data}-c256", resolution=resolution)


def steve(data):
    """Return `config` of STEVE."""

    def build(backbone, num_slots, pretrained):
        return method.codes("STEVE", backbone, model.box_slots(WIDTH), tokenizer.vq(WIDTH, pretrained))

    return published.experiment(data, build, pretrain=f"vqvae-{data}-c256")
