import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file
from torch.nn import functional

from object_centric_bench.model.autoencoder import (
    FeatureDecoder,
    FeatureEncoder,
    ImageDecoder,
    ImageEncoder,
    PlainImageDecoder,
    Tokenizer,
    run_layers,
    taesd_layers,
)
from object_centric_bench.model.backbone import IMAGENET_MEAN, IMAGENET_STD
from object_centric_bench.model.pixel_range import PixelRange
from object_centric_bench.model.quantizer import GroupedCodebook, LearnedCodebook, ProjectedCodebook
from object_centric_bench.model.weights import WeightsError


def tokenizer(decoder=True, **arguments):
    torch.manual_seed(0)
    return Tokenizer(
        FeatureEncoder(input_dim=12, dim=6),
        ProjectedCodebook(num_codes=16, dim=6, basis_dim=8),
        ImageDecoder(dim=6, hidden_dim=16, width=8, pretrained=False) if decoder else None,
        **arguments,
    )


def test_reconstruction_is_eight_times_the_features():
    output = tokenizer()(torch.randn(2, 12, 3, 4))
    assert output["latent"].shape == output["quantized"].shape == (2, 6, 3, 4)
    assert output["code"].shape == (2, 3, 4)
    assert output["reconstruction"].shape == (2, 3, 24, 32)
    assert torch.equal(output["mixed"], output["quantized"])


def test_a_feature_decoder_gives_back_features_by_a_linear_map():
    torch.manual_seed(0)
    parts = FeatureEncoder(input_dim=12, dim=6), ProjectedCodebook(num_codes=16, dim=6, basis_dim=8)
    output = Tokenizer(*parts, FeatureDecoder(dim=6, output_dim=12))(torch.randn(2, 12, 3, 4))
    assert output["reconstruction"].shape == (2, 12, 3, 4)
    decoder = FeatureDecoder(dim=2, output_dim=3)
    latent = torch.randn(1, 2, 3, 4)
    zero = decoder(torch.zeros_like(latent))
    torch.testing.assert_close(decoder(2 * latent) - zero, 2 * (decoder(latent) - zero))
    assert torch.equal(decoder(latent)[..., 1:, 1:], decoder(latent[..., 1:, 1:]))  # places do not meet


def test_without_decoder_there_is_no_reconstruction():
    assert tokenizer(decoder=False)(torch.randn(2, 12, 3, 4)).keys() == {"latent", "code", "quantized"}


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_the_decoder_trains_the_encoder_only(share):
    module = tokenizer(latent_mix=share)
    output = module(torch.randn(1, 12, 3, 4))
    expected = share * output["latent"] + (1 - share) * output["quantized"]
    torch.testing.assert_close(output["mixed"], expected)
    output["reconstruction"].square().sum().backward()
    assert module.quantizer.code_proj.weight.grad is None
    assert module.encoder.convs[0].weight.grad.abs().sum() > 0
    torch.testing.assert_close(module.decoder(output["mixed"].detach()), output["reconstruction"], rtol=1e-4, atol=1e-4)


def test_frozen_tokenizer_draws_where_told_to():
    module = tokenizer(decoder=False).requires_grad_(False).train()
    module.quantizer.logit_scale = 0.5
    assert not module.training
    feature = torch.randn(1, 12, 8, 8)
    output = module(feature, sample=True)
    assert not torch.equal(output["code"], module(feature)["code"])
    assert not output["latent"].requires_grad


def image_tokenizer(quantizer, decoder=True, **arguments):
    torch.manual_seed(0)
    encoder = ImageEncoder(6, width=8, pretrained=False)
    return Tokenizer(
        encoder, quantizer, PlainImageDecoder(6, width=8, pretrained=False) if decoder else None, **arguments
    )


def test_images_become_a_sixteenth_and_are_decoded_at_half_their_size():
    module = image_tokenizer(LearnedCodebook(16, 6))
    output = module(torch.randn(2, 3, 64, 32))
    assert output["latent"].shape == output["quantized"].shape == (2, 6, 4, 2)
    assert output["code"].shape == (2, 4, 2)
    assert output["mixed"] is output["quantized"]  # what the commitment loss compares with
    assert output["reconstruction"].shape == (2, 3, 32, 16)
    assert (module.dim, module.num_codes, module.group_sizes) == (6, 16, [16])


def test_a_learned_codebook_learns_from_alignment_only():
    module = image_tokenizer(LearnedCodebook(16, 6))
    output = module(torch.randn(1, 3, 32, 32))
    output["reconstruction"].sum().backward(retain_graph=True)
    assert module.quantizer.codebook.grad is None
    assert module.encoder.to_latent.weight.grad.abs().sum() > 0
    module.zero_grad()
    functional.mse_loss(output["quantized"], output["latent"].detach()).backward()
    assert module.encoder.to_latent.weight.grad is None
    used = module.quantizer.codebook.grad.abs().sum(dim=1).nonzero()[:, 0]
    assert torch.equal(used, output["code"].unique())


def test_groups_give_several_codes_per_place():
    module = image_tokenizer(GroupedCodebook([8, 4], dim=6, basis_dim=5), decoder=False)
    output = module(torch.randn(2, 3, 32, 32))
    assert output["code"].shape == (2, 2, 2, 2)
    assert (module.num_codes, module.group_sizes) == (12, [8, 4])


@pytest.mark.parametrize("published", [True, False])
def test_image_encoder_and_decoder_are_taesd_between_other_ends(published):
    widths = (8,) * 4
    torch.manual_seed(0)
    taesd = AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths)
    options = {"pretrained": False, "published_range": published}
    encoder, decoder = ImageEncoder(6, 8, **options), PlainImageDecoder(6, 8, **options)
    for part, layers in ((encoder, taesd.encoder.layers), (decoder, taesd.decoder.layers)):
        for index, layer in part.taesd.items():
            layer.load_state_dict(layers[int(index)].state_dict())
    assert list(encoder.taesd) == [str(index) for index in range(14)]
    assert list(decoder.taesd) == [str(index) for index in range(2, 19)]
    image, latent = torch.randn(1, 3, 48, 32), torch.randn(1, 6, 3, 2)
    half = functional.interpolate(image, (24, 16), mode="bicubic")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = (half + 1) / 2 if published else half * std + mean
    torch.testing.assert_close(encoder(image), encoder.to_latent(encoder.norm(taesd.encoder.layers[:14](pixels))))
    pixels = taesd.decoder.layers[2:](decoder.norm(decoder.from_latent(latent)))
    torch.testing.assert_close(decoder(latent), 2 * pixels - 1 if published else (pixels - mean) / std)
    wide = ImageDecoder(6, 8, 8, **options)
    pixels = run_layers(wide.taesd, wide.activation(wide.norm(wide.upscale(wide.from_latent(latent)))))
    torch.testing.assert_close(wide(latent), 2 * pixels - 1 if published else (pixels - mean) / std)


def test_pixels_are_those_that_taesd_was_trained_on_unless_a_config_says_otherwise():
    white = ((1 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)).view(1, 3, 1, 1)
    plain = PixelRange(published=False)
    torch.testing.assert_close(plain(white), torch.ones(1, 3, 1, 1))
    torch.testing.assert_close(plain.invert(plain(white)), white)
    assert PixelRange(published=True)(white).min() > 1.6
    assert torch.equal(ImageEncoder(6, 8, pretrained=False).pixel_range.shift, plain.shift)
    assert not plain.state_dict()


def test_frozen_leading_layers_keep_no_graph():
    encoder = ImageEncoder(6, 8, pretrained=False)
    for index in range(11):
        encoder.taesd[str(index)].requires_grad_(False)
    recorded = {}
    for index, layer in encoder.taesd.items():
        layer.register_forward_hook(lambda _, __, result, at=index: recorded.update({int(at): result.requires_grad}))
    encoder(torch.randn(1, 3, 32, 32)).sum().backward()
    assert [index for index, requires in recorded.items() if requires] == [11, 12, 13]
    assert encoder.taesd["11"].conv[0].weight.grad.abs().sum() > 0


def test_parts_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="encoder's dim is 5 but quantizer's dim is 6"):
        Tokenizer(FeatureEncoder(12, 5), ProjectedCodebook(16, 6))
    with pytest.raises(ValueError, match=r"feature has shape \(1, 6, 3, 3\)"):
        FeatureEncoder(12, 6)(torch.zeros(1, 6, 3, 3))
    with pytest.raises(ValueError, match=r"image has shape \(1, 2, 3, 32, 32\)"):
        ImageEncoder(6, 8, pretrained=False)(torch.zeros(1, 2, 3, 32, 32))


def test_taesd_from_a_local_file(tmp_path, monkeypatch):
    sides = {
        "encoder": taesd_layers("encoder", range(15), 8, False),
        "decoder": taesd_layers("decoder", range(19), 8, False),
    }
    path = tmp_path / "taesd.safetensors"
    save_file(
        {f"{side}.layers.{key}": value for side, layers in sides.items() for key, value in layers.state_dict().items()},
        path,
    )
    last = sides["decoder"]["18"].weight.half().float()
    for decoder in (ImageDecoder, PlainImageDecoder):
        assert torch.equal(decoder(dim=6, width=8, weights=str(path)).taesd["18"].weight, last)
    encoder = ImageEncoder(dim=6, width=8, weights=str(path))
    assert torch.equal(encoder.taesd["0"].weight, sides["encoder"]["0"].weight.half().float())
    assert encoder.taesd.weights_origin.partition(" (sha256 ")[0].endswith("taesd.safetensors")
    with pytest.raises(WeightsError, match="does not fit a TAESD encoder of width 16"):
        ImageEncoder(dim=6, width=16, weights=str(path))
    with pytest.raises(ValueError, match="are given but pretrained is False"):
        PlainImageDecoder(dim=6, pretrained=False, weights=str(path))
    with pytest.raises(WeightsError, match="does not fit a TAESD decoder of width 16"):
        ImageDecoder(dim=6, width=16, weights=str(path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="madebyollin/taesd"):
        ImageDecoder(dim=6)
