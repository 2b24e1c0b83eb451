"""The multi-scale tokenizer against the equations of the paper, place by place."""

import pytest
import torch
from torch.nn import functional

from object_centric_bench.model import quantizer
from object_centric_bench.model.autoencoder import ImageEncoder, PlainImageDecoder
from object_centric_bench.model.msf import MultiScaleTokenizer
from object_centric_bench.model.quantizer import ProjectedCodebook, chi_std
from object_centric_bench.registry import ConfigError, build

DIM, WIDTH, SCALES = 6, 8, 3
IMAGE = torch.randn(2, 3, 128, 64, generator=torch.Generator().manual_seed(1))


def tokenizer(decoder=True, **arguments):
    torch.manual_seed(0)
    module = MultiScaleTokenizer(
        ImageEncoder(DIM, WIDTH, pretrained=False),
        ProjectedCodebook(16, DIM, basis_dim=5),
        [ProjectedCodebook(size, DIM, basis_dim=5) for size in (16, 8, 4)],
        PlainImageDecoder(DIM, WIDTH, pretrained=False) if decoder else None,
        **arguments,
    )
    with torch.no_grad():
        module.encoder.to_latent.weight *= 3  # spread latents, so that no scale wins everywhere
    return module


def encode(module, scale):
    size = [side // 2**scale for side in IMAGE.shape[2:]]
    return module.encoder(functional.interpolate(IMAGE, size, mode="bilinear")).detach()


@pytest.mark.parametrize("scale", range(SCALES))
def test_places_take_the_scale_that_the_shared_codebook_is_surest_of(scale):
    module = tokenizer()
    output = module(IMAGE)
    encoded = [encode(module, source) for source in range(SCALES)]
    height, width = 8 // 2**scale, 4 // 2**scale
    codes, own_codes = module.shared.codes(), module.quantizers[scale].codes()
    winners = set()
    for b in range(2):
        for y in range(height):
            for x in range(width):
                candidates = []
                for source in range(SCALES):
                    step = 2.0 ** (scale - source)  # places of the source per place of this scale
                    top, left = int(y * step), int(x * step)
                    more = max(int(step), 1)
                    patch = encoded[source][b, :, top : top + more, left : left + more]
                    candidates.append(patch.mean(dim=(1, 2)))
                distance = torch.cdist(torch.stack(candidates), codes)  # scales, codes
                best = (-distance / chi_std(DIM)).softmax(dim=1).max(dim=1)
                winner = best.values.argmax().item()
                winners.add(winner)
                own = encoded[scale][b, :, y, x]
                nearest = torch.cdist(own[None], own_codes).argmin().item()
                assert output["code"][scale][b, :, y, x].tolist() == [best.indices[winner].item(), nearest]
                latent = (candidates[winner] + own) / 2
                torch.testing.assert_close(output["latent"][scale][b, :, y, x], latent, rtol=1e-4, atol=1e-5)
                quantized = (codes[best.indices[winner]] + own_codes[nearest]) / 2
                torch.testing.assert_close(output["quantized"][scale][b, :, y, x], quantized)
    assert scale > 0 or len(winners) > 1


def test_shapes_of_all_scales():
    output = tokenizer()(IMAGE)
    for scale in range(SCALES):
        grid = (8 // 2**scale, 4 // 2**scale)
        for key in ("latent", "quantized", "mixed"):
            assert output[key][scale].shape == (2, DIM, *grid)
        assert output["code"][scale].shape == (2, 2, *grid)
        assert output["reconstruction"][scale].shape == (2, 3, 8 * grid[0], 8 * grid[1])


def test_second_stage_is_scale_0_of_the_first():
    first, second = tokenizer(), tokenizer(decoder=False)
    second.load_state_dict({key: value for key, value in first.state_dict().items() if not key.startswith("decoder.")})
    expected, output = first(IMAGE), second(IMAGE)
    assert output.keys() == {"latent", "code", "quantized"}
    assert torch.equal(output["code"], expected["code"][0])
    assert torch.equal(output["quantized"], expected["quantized"][0])
    torch.testing.assert_close(output["latent"], encode(second, 0))
    assert (second.dim, second.num_codes, second.group_sizes) == (DIM, 32, [16, 16])


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_the_decoder_trains_the_encoder_only(share):
    module = tokenizer(latent_mix=share)
    output = module(IMAGE)
    for scale in range(SCALES):
        expected = share * output["latent"][scale] + (1 - share) * output["quantized"][scale]
        torch.testing.assert_close(output["mixed"][scale], expected)
    output["reconstruction"][1].square().sum().backward()
    assert all(codebook.code_proj.weight.grad is None for codebook in module.codebooks())
    assert module.encoder.to_latent.weight.grad.abs().sum() > 0
    decoded = module.decoder(output["mixed"][1].detach())
    torch.testing.assert_close(decoded, output["reconstruction"][1], rtol=1e-4, atol=1e-4)


def test_the_codes_of_a_scale_train_its_codebook_and_the_shared_one():
    module = tokenizer()
    module(IMAGE)["quantized"][1].square().sum().backward()
    trained = [codebook.code_proj.weight.grad is not None for codebook in module.codebooks()]
    assert trained == [True, False, True, False]
    assert module.encoder.to_latent.weight.grad is None


def test_permuting_shared_codes_permutes_indices_only():
    module = tokenizer(decoder=False)
    before = module(IMAGE)
    order = torch.randperm(16)
    module.shared.basis.copy_(module.shared.basis[order].clone())
    after = module(IMAGE)
    assert torch.equal(order[after["code"][:, 0]], before["code"][:, 0])
    assert torch.equal(after["code"][:, 1], before["code"][:, 1])
    torch.testing.assert_close(after["quantized"], before["quantized"])


def test_any_chunking_gives_the_same(monkeypatch):
    module = tokenizer()
    expected = module(IMAGE)
    monkeypatch.setattr(quantizer, "CHUNK_ELEMENTS", 16 * 5)
    for one, other in zip(module(IMAGE)["latent"], expected["latent"], strict=True):
        torch.testing.assert_close(one, other)


def test_draws_of_code_and_scale_only_where_asked_for():
    module = tokenizer(logit_scale=2.0)
    assert [codebook.logit_scale for codebook in module.codebooks()] == [2.0] * 4
    nearest, drawn = module(IMAGE), module(IMAGE, sample=True)
    assert torch.equal(module(IMAGE)["code"][0], nearest["code"][0])
    differ = nearest["code"][0] != drawn["code"][0]
    assert differ[:, 0].any()
    assert differ[:, 1].any()
    assert not torch.equal(nearest["latent"][0], drawn["latent"][0])
    module.logit_scale = 0.0
    assert torch.equal(module(IMAGE, sample=True)["code"][0], nearest["code"][0])


def test_frozen_it_draws_without_autograd_and_in_eval_mode():
    module = tokenizer(decoder=False, logit_scale=1.0).requires_grad_(False).train()
    assert not module.training
    output = module(IMAGE, sample=True)
    assert not any(value.requires_grad for value in output.values())
    assert not torch.equal(output["code"], module(IMAGE)["code"])


def test_a_config_states_it_and_names_what_does_not_fit():
    codebook = dict(type="ProjectedCodebook", num_codes=4, dim=6, basis_dim=5)
    node = dict(
        type="MultiScaleTokenizer",
        encoder=dict(type="ImageEncoder", dim=6, width=8, pretrained=False),
        shared=codebook,
        quantizers=[codebook, codebook],
        logit_scale=5.0,
    )
    assert build(node, "tokenizer").logit_scale == 5.0
    wrong = {**node, "quantizers": [codebook, {**codebook, "dim": 5}]}
    with pytest.raises(ConfigError, match=r"tokenizer: encoder's dim is 6 but quantizers\.1's dim is 5"):
        build(wrong, "tokenizer")
    wrong = {**node, "quantizers": [{**codebook, "logit_scale": 2.0}], "logit_scale": None}
    with pytest.raises(ConfigError, match=r"shared's logit_scale is 0\.0 but quantizers\.0's logit_scale is 2\.0"):
        build(wrong, "tokenizer")
    with pytest.raises(ConfigError, match="quantizers is empty"):
        build({**node, "quantizers": []}, "tokenizer")


def test_images_whose_scales_have_no_common_grid():
    with pytest.raises(ValueError, match="are no multiples of each other"):
        tokenizer()(torch.zeros(1, 3, 80, 80))
    with pytest.raises(ValueError, match="image has shape"):
        tokenizer()(torch.zeros(1, 2, 3, 64, 64))
