"""GDR and MSF: grouped and multi-scale tokenizers, and SLATE and SlotDiffusion on them."""

from object_centric_bench.recipe import method, model, published, tokenizer

LOGIT_SCALE = {"gdr": 2.0, "msf": 5.0}  # inverse temperature of drawing codes in the second stage
DIM = published.SLOT_DIM


def vqvae(kind, width):
    """Return `config` of the first stage with codes of `width` channels; kind is gdr or msf."""
    return published.image_tokenizer("coco", kind, width)


def slate(kind):
    """Return `config` of SLATE, which predicts two codes per place."""

    def build(backbone, num_slots, pretrained):
        codes = getattr(tokenizer, kind)(256, LOGIT_SCALE[kind], pretrained)
        return method.codes("SLATE", backbone, model.gaussian_slots(num_slots, DIM), codes)

    return published.experiment("coco", build, pretrain=f"vqvae-coco-c256-{kind}")


def slotdiffusion(kind):
    """Return `config` of SlotDiffusion, which denoises what the tokenizer's encoder gives."""

    def build(backbone, num_slots, pretrained):
        codes = getattr(tokenizer, kind)(4, LOGIT_SCALE[kind], pretrained)
        slots = model.gaussian_slots(num_slots, DIM)
        return method.denoising("SlotDiffusion", backbone, slots, codes, continuous_target=True)

    return published.experiment("coco", build, pretrain=f"vqvae-coco-c4-{kind}")
