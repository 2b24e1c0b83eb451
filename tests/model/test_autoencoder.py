import pytest
import torch
from safetensors.torch import save_file

from object_centric_bench.model.autoencoder import FeatureEncoder, ImageDecoder, Tokenizer, taesd_decoder_layers
from object_centric_bench.model.quantizer import LearnedCodebook, ProjectedCodebook
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


def test_works_with_a_learned_codebook():
    module = Tokenizer(FeatureEncoder(12, 6), LearnedCodebook(16, 6))
    assert module(torch.randn(1, 12, 3, 3))["quantized"].shape == (1, 6, 3, 3)


def test_parts_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="encoder's dim is 5 but quantizer's dim is 6"):
        Tokenizer(FeatureEncoder(12, 5), ProjectedCodebook(16, 6))
    with pytest.raises(ValueError, match=r"feature has shape \(1, 6, 3, 3\)"):
        FeatureEncoder(12, 6)(torch.zeros(1, 6, 3, 3))


def test_taesd_from_a_local_file(tmp_path, monkeypatch):
    layers = taesd_decoder_layers(8, pretrained=False, weights=None)
    path = tmp_path / "taesd.safetensors"
    save_file({f"decoder.layers.{key}": value for key, value in layers.state_dict().items()}, path)
    decoder = ImageDecoder(dim=6, width=8, weights=str(path))
    weight = layers[18].weight
    assert torch.equal(decoder.taesd["18"].weight, weight.half().float())
    with pytest.raises(WeightsError, match="does not fit a TAESD decoder of width 16"):
        ImageDecoder(dim=6, width=16, weights=str(path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="madebyollin/taesd"):
        ImageDecoder(dim=6)
