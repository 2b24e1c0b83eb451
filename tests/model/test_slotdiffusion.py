"""SlotDiffusion and VVO-Dfz: what denoises latents from slots."""

import pytest
import torch
from torch.nn import functional

from object_centric_bench import learn, model  # noqa: F401, registers what configs name
from object_centric_bench.model.diffusion import DiffusionDecoder
from object_centric_bench.model.slotdiffusion import SlotDiffusion
from object_centric_bench.model.vvo import VVODfz

from .second_stage import NUM_SLOTS, SLOT_DIM, gradient_faults, make_parts, make_tokenizer

KINDS = ["vq", "gdr", "msf", "simvq"]  # the last is VVO-Dfz


def make(kind, grid=(4, 4), latent_dim=4, dim=SLOT_DIM, method=None, **options):
    torch.manual_seed(0)
    decoder = DiffusionDecoder(list(grid), latent_dim, dim, widths=[32, 64], layers_per_block=1)
    method = method or (VVODfz if kind == "simvq" else SlotDiffusion)
    return method(**make_parts(make_tokenizer(kind, 4)), decoder=decoder, **options)


@pytest.fixture
def image():
    torch.manual_seed(1)
    return torch.randn(2, 3, 64, 64)


@pytest.fixture
def drawn():
    torch.manual_seed(2)
    return {"timestep": torch.tensor([3, 700]), "noise": torch.randn(2, 4, 4, 4)}


@pytest.mark.parametrize("kind", KINDS)
def test_outputs(kind, image, drawn):
    output = make(kind)(image=image, **drawn)
    assert output.keys() == {"feature", "code", "quantized", "slots", "attention", "prediction", "noise"}
    assert output["code"].shape == ((2, 2, 4, 4) if kind in ("gdr", "msf") else (2, 4, 4))
    assert output["quantized"].shape == output["prediction"].shape == (2, 4, 4, 4)
    assert output["slots"].shape == (2, NUM_SLOTS, SLOT_DIM)
    torch.testing.assert_close(output["attention"].sum(dim=1), torch.ones(2, 4, 4))
    assert torch.equal(output["noise"], drawn["noise"])  # D1: the reference has these two exchanged
    assert output["prediction"].requires_grad
    assert not output["noise"].requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_every_trained_parameter_gets_a_gradient_and_no_other(kind, image):
    method = make(kind).train()
    output = method(image=image)
    functional.mse_loss(output["prediction"], output["noise"]).backward()
    assert not gradient_faults(method)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_differs_by_its_noise_only(kind, image, drawn):
    method = make(kind).eval()
    first, second = method(image=image), method(image=image)
    for key in first:
        assert torch.equal(first[key], second[key]) == (key not in ("prediction", "noise")), key
    first, second = method(image=image, **drawn), method(image=image, **drawn)
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.manual_seed(5)
    first = method(image=image)
    torch.manual_seed(5)
    assert all(torch.equal(value, first[key]) for key, value in method(image=image).items())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_denoised(kind, image, drawn, monkeypatch):
    given = {}
    for continuous in (False, True) if kind != "simvq" else (False,):
        method = make(kind, **({"continuous_target": True} if continuous else {})).eval()
        decode = method.decoder.forward
        monkeypatch.setattr(
            method.decoder, "forward", lambda latent, *rest, d=decode: given.update(latent=latent) or d(latent, *rest)
        )
        output = method(image=image, **drawn)
        encoded = method.tokenizer.encoder(output["feature"] if kind == "simvq" else image)
        assert torch.equal(given["latent"], encoded if continuous else output["quantized"])
        assert torch.equal(encoded, given["latent"]) == continuous == ("code" not in output)


def test_a_cached_feature_gives_the_same(image, drawn):
    for kind in ("vq", "simvq"):
        method = make(kind).eval()
        expected = method(image=image, **drawn)
        known = {"feature": expected["feature"]} | ({"image": image} if kind == "vq" else {})
        output = method(**known, **drawn)
        assert all(torch.equal(output[key], expected[key]) for key in expected)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_trains(kind, image):
    method = make(kind).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = method(image=image)
    loss = functional.mse_loss(output["prediction"].float(), output["noise"])
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(kind="vq", latent_dim=8), "tokenizer's dim is 4 but decoder's latent_dim is 8"),
        (dict(kind="simvq", latent_dim=8), "tokenizer's dim is 4 but decoder's latent_dim is 8"),
        (dict(kind="vq", dim=16), "slot_attention's dim is 32 but decoder's slot width is 16"),
        (dict(kind="vq", grid=[8, 8]), r"backbone's grid is \[4, 4\] but decoder's grid is \[8, 8\]"),
        (
            dict(kind="simvq", method=SlotDiffusion),
            "an image's number of channels is 3 but tokenizer.encoder's input_dim is 48",
        ),
        (dict(kind="vq", method=VVODfz), "backbone's dim is 48 but tokenizer.encoder's input_dim is 3"),
    ],
)
def test_parts_that_do_not_fit_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        make(**sizes)
