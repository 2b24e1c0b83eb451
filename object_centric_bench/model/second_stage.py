"""What methods share whose slots predict the codes of a tokenizer that was trained before."""

from torch import Tensor, nn

from object_centric_bench.model.backbone import extract
from object_centric_bench.model.freezing import no_grad_if_frozen
from object_centric_bench.model.mlp import zero_biases
from object_centric_bench.model.sizes import require_equal
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

    Raises:
        ValueError: widths or grids of parts that meet differ.
    """

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
        require_equal(
            ("backbone's dim", backbone.dim, "projection's input width", projection.input_dim),
            ("projection's output width", projection.dim, "slot_attention's input_dim", slot_attention.input_dim),
            ("initializer's dim", initializer.dim, "slot_attention's dim", slot_attention.dim),
            ("slot_attention's dim", slot_attention.dim, "decoder's slot width", decoder.dim),
            ("backbone's grid", backbone.grid, "decoder's grid", decoder.grid),
            *self.fit(backbone, tokenizer, decoder),
        )
        self.backbone = backbone
        self.projection = projection
        self.initializer = initializer
        self.slot_attention = slot_attention
        self.tokenizer = tokenizer.requires_grad_(False).eval()
        self.decoder = decoder
        self.sample_codes = sample_codes
        zero_biases(projection)

    @staticmethod
    def fit(backbone: nn.Module, tokenizer: nn.Module, decoder: nn.Module) -> list[tuple]:
        """Return the sizes that this method's tokenizer and decoder must share, as `require_equal` takes them."""
        raise TypeError("SecondStage is no method by itself: build one of its subclasses")

    def tokenize(self, given: Tensor) -> dict[str, Tensor]:
        """Return the tokenizer's output for features (b c h w) or images (b 3 h w)."""
        return self.tokenizer(given, sample=self.training and self.sample_codes)

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
