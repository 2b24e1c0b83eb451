import pytest
import torch

from object_centric_bench import learn, model  # noqa: F401, registers what configs name
from object_centric_bench.model.autoregressive import AutoregressiveTransformer
from object_centric_bench.model.slate import SLATE

from .second_stage import NUM_SLOTS, SLOT_DIM, gradient_faults, grouped_cross_entropy, make_parts, make_tokenizer

KINDS = ["vq", "gdr", "msf"]


def make(kind, dim=SLOT_DIM, num_codes=40, tokenizer_dim=SLOT_DIM):
    torch.manual_seed(0)
    decoder = AutoregressiveTransformer([4, 4], dim, num_codes, num_layers=2)
    return SLATE(**make_parts(make_tokenizer(kind, tokenizer_dim)), decoder=decoder)


@pytest.fixture
def image():
    torch.manual_seed(1)
    return torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs(kind, image):
    output = make(kind)(image=image)
    assert output.keys() == {"feature", "code", "quantized", "slots", "attention", "logits"}
    assert output["feature"].shape == (2, 48, 4, 4)
    assert output["code"].shape == ((2, 4, 4) if kind == "vq" else (2, 2, 4, 4))
    assert output["code"].dtype == torch.int64
    assert output["quantized"].shape == (2, SLOT_DIM, 4, 4)
    assert output["slots"].shape == (2, NUM_SLOTS, SLOT_DIM)
    assert output["logits"].shape == (2, 40, 4, 4)
    torch.testing.assert_close(output["attention"].sum(dim=1), torch.ones(2, 4, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_every_trained_parameter_gets_a_gradient_and_no_other(kind, image):
    method = make(kind).train()
    output = method(image=image)
    grouped_cross_entropy(output["logits"], output["code"]).backward()
    assert not gradient_faults(method)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_deterministic_and_training_draws_slots_and_codes(kind, image):
    method = make(kind).eval()
    nearest = method(image=image)
    again = method(image=image)
    assert all(torch.equal(nearest[key], again[key]) for key in nearest)
    method.train()
    assert not method.tokenizer.training
    drawn = method(image=image)
    assert not torch.equal(drawn["slots"], nearest["slots"])
    assert torch.equal(drawn["code"], nearest["code"]) == (kind == "vq")  # a learned codebook has no draws
    method.sample_codes = False
    assert torch.equal(method(image=image)["code"], nearest["code"])


def test_a_cached_feature_gives_the_same_and_the_image_is_needed(image):
    method = make("vq").eval()
    expected = method(image=image)
    output = method(image=image, feature=method.backbone(image))
    assert all(torch.equal(output[key], expected[key]) for key in expected)
    known = method(feature=expected["feature"], code=expected["code"])
    assert all(torch.equal(known[key], expected[key]) for key in expected)
    with pytest.raises(ValueError, match="neither image nor code"):
        method(feature=expected["feature"])


@pytest.mark.parametrize("kind", KINDS)
def test_no_code_is_predicted_from_itself_or_what_follows(kind, image, monkeypatch):
    method = make(kind).eval()
    expected = method(image=image)
    for place in (0, 7, 15):
        changed = expected["quantized"].flatten(2).clone()
        changed[:, :, place:] += torch.randn(2, SLOT_DIM, 16 - place)
        token = {"code": expected["code"], "quantized": changed.view_as(expected["quantized"])}
        monkeypatch.setattr(method, "tokenize", lambda given, code, token=token: token)
        differs = (method(image=image)["logits"] - expected["logits"]).abs().amax(dim=(0, 1)).flatten()
        assert not differs[: place + 1].any()
        assert (differs[place + 1 :] > 0).all()


def test_logits_come_from_the_slots(image):
    method = make("vq").eval()
    expected = method(image=image)["logits"]
    with torch.no_grad():
        method.initializer.mean += torch.randn_like(method.initializer.mean)
    assert not torch.allclose(method(image=image)["logits"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(kind="vq", num_codes=41), "tokenizer's num_codes is 40 but decoder's num_codes is 41"),
        (dict(kind="gdr", num_codes=24), "tokenizer's num_codes is 40 but decoder's num_codes is 24"),
        (dict(kind="vq", tokenizer_dim=16), "tokenizer's dim is 16 but decoder's dim is 32"),
        (dict(kind="vq", dim=64), "slot_attention's dim is 32 but decoder's slot width is 64"),
        (dict(kind="simvq"), "an image's number of channels is 3 but tokenizer.encoder's input_dim is 48"),
    ],
)
def test_parts_that_do_not_fit_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        make(**sizes)


def test_an_image_that_gives_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"quantized has shape \(1, 32, 6, 6\), wanted \(any, 32, 4, 4\)"):
        make("vq")(image=torch.zeros(1, 3, 96, 96))
