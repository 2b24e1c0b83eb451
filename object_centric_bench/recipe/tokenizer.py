"""Tokenizers: how an image, or a backbone's feature of it, becomes codes. `decoder` is None in a second stage."""

NUM_CODES = 4096
LOGIT_SCALE = 2.35  # inverse temperature of drawing codes: reached at the end of stage 1 of VVO, kept in stage 2
PUBLISHED = dict(weights=None, published_range=True)  # TAESD gets pixels in a range that it was not trained on
FROZEN = r"tokenizer\.encoder\.taesd\.(?:[0-9]|10)\..*"  # in stage 1 only TAESD's last blocks are trained


def image_encoder(width: int, pretrained: bool) -> dict:
    """Return most of TAESD's encoder on the halved image, down to codes of `width` channels."""
    return dict(type="ImageEncoder", dim=width, pretrained=pretrained, **PUBLISHED)


def image_decoder(width: int, pretrained: bool) -> dict:
    """Return most of TAESD's decoder, from codes of `width` channels to an image of half the size."""
    return dict(type="PlainImageDecoder", dim=width, pretrained=pretrained, **PUBLISHED)


def feature_decoder(width: int, pretrained: bool, hidden_dim: int = 256, channels: int = 64) -> dict:
    """Return VVO's decoder from codes of `width` channels to an image; TAESD's part has 64 channels."""
    sizes = dict(dim=width, hidden_dim=hidden_dim, width=channels)
    return dict(type="ImageDecoder", **sizes, pretrained=pretrained, **PUBLISHED)


def vq(width: int, pretrained: bool, decoder: dict | None = None) -> dict:
    """VQ-VAE (van den Oord et al., NeurIPS 2017): a learned codebook."""
    quantizer = dict(type="LearnedCodebook", num_codes=NUM_CODES, dim=width)
    return dict(type="Tokenizer", encoder=image_encoder(width, pretrained), quantizer=quantizer, decoder=decoder)


def simvq(input_dim: int, width: int, num_codes: int, logit_scale: float, decoder: dict | None = None) -> dict:
    """Quantize a backbone's feature of `input_dim` channels with codes projected from a frozen random basis."""
    return dict(
        type="Tokenizer",
        encoder=dict(type="FeatureEncoder", input_dim=input_dim, dim=width),
        quantizer=dict(type="ProjectedCodebook", num_codes=num_codes, dim=width, logit_scale=logit_scale),
        decoder=decoder,
    )


def gdr(width: int, logit_scale: float, pretrained: bool, decoder: dict | None = None) -> dict:
    """Grouped discrete representation (GDR): halves of the channels have codebooks of their own."""
    quantizer = dict(type="GroupedCodebook", num_codes=[256, 256], dim=width, basis_dim=512, logit_scale=logit_scale)
    return dict(type="Tokenizer", encoder=image_encoder(width, pretrained), quantizer=quantizer, decoder=decoder)


def msf(width: int, logit_scale: float, pretrained: bool, decoder: dict | None = None) -> dict:
    """Multi-scale fusion (MSF): three scales with a codebook each, and one that they share."""
    shared, *scales = (dict(type="ProjectedCodebook", num_codes=size, dim=width) for size in (256, 256, 128, 64))
    return dict(
        type="MultiScaleTokenizer",
        encoder=image_encoder(width, pretrained),
        shared=shared,
        quantizers=scales,
        logit_scale=logit_scale,
        decoder=decoder,
    )
