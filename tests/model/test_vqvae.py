import pytest
import torch

from object_centric_bench.model.autoencoder import FeatureEncoder, ImageDecoder, ImageEncoder, PlainImageDecoder
from object_centric_bench.model.autoencoder import Tokenizer as OneScale
from object_centric_bench.model.msf import MultiScaleTokenizer
from object_centric_bench.model.quantizer import LearnedCodebook, ProjectedCodebook
from object_centric_bench.model.vqvae import VQVAE


def first_stage(scales=0):
    torch.manual_seed(0)
    ends = ImageEncoder(4, 8, pretrained=False), PlainImageDecoder(4, 8, pretrained=False)
    if not scales:
        return VQVAE(OneScale(ends[0], ProjectedCodebook(16, 4, 5, logit_scale=1.0), ends[1])).eval()
    codebooks = [ProjectedCodebook(8, 4, 5) for _ in range(scales + 1)]
    return VQVAE(MultiScaleTokenizer(ends[0], codebooks[0], codebooks[1:], ends[1])).eval()


def test_a_video_is_its_frames():
    model, video = first_stage(), torch.randn(2, 3, 3, 32, 32)
    output = model(video=video)
    assert output["code"].shape == (2, 3, 2, 2)
    assert output["reconstruction"].shape == (2, 3, 3, 16, 16)
    for key, value in model(image=video[:, 1]).items():
        torch.testing.assert_close(output[key][:, 1], value)


def test_a_video_at_several_scales():
    model, video = first_stage(scales=2), torch.randn(2, 3, 3, 32, 32)
    output, frame = model(video=video), model(image=video[:, 1])
    for key in ("latent", "code", "quantized", "mixed", "reconstruction"):
        for scale in range(2):
            torch.testing.assert_close(output[key][scale][:, 1], frame[key][scale])


def test_codes_are_drawn_in_training_only():
    model, image = first_stage(), torch.randn(2, 3, 64, 64)
    nearest = model(image)["code"]
    assert torch.equal(model(image)["code"], nearest)
    assert not torch.equal(model.train()(image)["code"], nearest)


def test_a_tokenizer_that_does_not_fit():
    with pytest.raises(ValueError, match="needs a decoder"):
        VQVAE(OneScale(ImageEncoder(4, 8, pretrained=False), LearnedCodebook(8, 4)))
    with pytest.raises(ValueError, match=r"channels is 3 but tokenizer\.encoder's input_dim is 12"):
        VQVAE(OneScale(FeatureEncoder(12, 4), LearnedCodebook(8, 4), ImageDecoder(4, 8, 8, pretrained=False)))


def test_either_images_or_a_video():
    model = first_stage()
    for given in ({}, {"image": torch.zeros(1, 3, 16, 16), "video": torch.zeros(1, 1, 3, 16, 16)}):
        with pytest.raises(ValueError, match="either image or video"):
            model(**given)
    with pytest.raises(ValueError, match="video has shape"):
        model(video=torch.zeros(1, 3, 16, 16))
