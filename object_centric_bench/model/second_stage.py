"""What methods share whose slots predict the codes of a tokenizer that was trained before."""

from typing import ClassVar

from torch import Tensor, nn

from object_centric_bench.model.assembly import assemble
from object_centric_bench.model.backbone import extract
from object_centric_bench.model.freezing import no_grad_if_frozen
from object_centric_bench.model.slot_attention import group


class SecondStage(nn.Module):
    """The parts of such a method, checked to fit together; a method adds its `forward`.

    Args:
        backbone: images to features.
        projection: features to the tokens of slot attention.
        initializer: batch size to initial slots.
        slot_attention: tokens and initial slots to slots.
        tokenizer: features or images to codes; it is frozen here, and its weights come from the first stage.
        decoder: from slots; what it gives is the method's.
        sample_codes: draw the codes in training, at the quantizer's `logit_scale`, instead of taking the nearest.

    Attributes:
        tokenizes_images: the tokenizer takes images, not features.

    Raises:
        ValueError: widths or grids of parts that meet differ.
    """

    tokenizes_images: ClassVar[bool] = False

    def __init__(
        self,
        backbone: nn.Module,
        projection: nn.Module,
        initializer: nn.Module,
        slot_attention: nn.Module,
        tokenizer: nn.Module,
        decoder: nn.Module,
        sample_codes: bool = True,
    ):
        super().__init__()
        parts = backbone, projection, initializer, slot_attention, decoder
        fit = self.fit(backbone, tokenizer, decoder)
        assemble(self, *parts, fit, tokenizer=tokenizer.requires_grad_(False).eval())
        self.sample_codes = sample_codes

    @staticmethod
    def fit(backbone: nn.Module, tokenizer: nn.Module, decoder: nn.Module) -> list[tuple]:
        """Return the sizes that this method's tokenizer and decoder must share, as `require_equal` takes them."""
        raise TypeError("SecondStage is no method by itself: build one of its subclasses")

    def tokenize(self, given: Tensor | None, code: Tensor | None = None) -> dict[str, Tensor]:
        """Return code (b h w) and quantized (b c h w) of features or images (b c h w), or of codes known already.

        Raises:
            ValueError: neither is given.
        """
        if code is not None:
            return {"code": code, "quantized": self.tokenizer.look_up(code)}
        if given is None:
            raise ValueError(f"{type(self).__name__} tokenizes images: neither image nor code is given")
        found = self.tokenizer(given, sample=self.training and self.sample_codes)
        return {"code": found["code"], "quantized": found["quantized"]}

    def encode(self, given: Tensor) -> Tensor:
        """Return the tokenizer's latents (b c h w) of features or images, without looking for their codes."""
        with no_grad_if_frozen(self.tokenizer):
            return self.tokenizer.encoder(given)

    def find_slots(self, image: Tensor | None, feature: Tensor | None) -> dict[str, Tensor]:
        """Return feature (b c h w), slots (b s d) and attention (b s h w); see the methods' `forward`."""
        feature = extract(self.backbone, image, feature)
        slots, attention = group(feature, self.projection, self.initializer(len(feature)), self.slot_attention)
        return {"feature": feature, "slots": slots, "attention": attention}


def fit_feature(backbone: nn.Module, tokenizer: nn.Module) -> list[tuple]:
    """Return what a tokenizer of the backbone's features must share with it."""
    return [("backbone's dim", backbone.dim, "tokenizer.encoder's input_dim", tokenizer.encoder.input_dim)]


def fit_image(tokenizer: nn.Module) -> list[tuple]:
    """Return what a tokenizer of images must have."""
    return [("an image's number of channels", 3, "tokenizer.encoder's input_dim", tokenizer.encoder.input_dim)]


def fit_codes(tokenizer: nn.Module, decoder: nn.Module) -> list[tuple]:
    """Return what a decoder that predicts codes shares with the tokenizer: code vectors are its tokens."""
    return [
        ("tokenizer's dim", tokenizer.dim, "decoder's dim", decoder.dim),
        ("tokenizer's num_codes", tokenizer.num_codes, "decoder's num_codes", decoder.num_codes),
    ]


def fit_denoising(tokenizer: nn.Module, decoder: nn.Module) -> list[tuple]:
    """Return what a decoder that denoises latents or code vectors shares with the tokenizer."""
    return [("tokenizer's dim", tokenizer.dim, "decoder's latent_dim", decoder.latent_dim)]
