"""SlotDiffusion and the image tokenizer that it starts from."""

from object_centric_bench.recipe import method, model, published, tokenizer

WIDTH = 4  # channels of a code


def vqvae(data, resolution=256):
    """Return `config` of the first stage."""
    return published.image_tokenizer(data, "vq", WIDTH, resolution)


def slotdiffusion(data, resolution=256):
    """Return `config` of SlotDiffusion."""

    def build(backbone, num_slots, pretrained):
        slots = model.gaussian_slots(num_slots, published.SLOT_DIM)
        return method.denoising("SlotDiffusion", backbone, slots, tokenizer.vq(WIDTH, pretrained))

    return published.experiment(data, build, pretrain=f"vqvae-{data}-c4", resolution=resolution)
