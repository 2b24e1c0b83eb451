import pytest
import torch

from object_centric_bench.model import temporal
from object_centric_bench.registry import ConfigError, build

from .videos import FRAMES, batch, check_close, check_gradients, frame_by_frame, make


def test_equals_frame_by_frame():
    model, inputs = make("STEVE").eval(), batch()
    output = model(**inputs)
    check_close(output, frame_by_frame(model, **inputs))
    shapes = {key: tuple(value.shape) for key, value in output.items()}
    assert shapes == {
        "feature": (2, FRAMES, 48, 4, 4),
        "slots": (2, FRAMES, 4, 32),
        "attention": (2, FRAMES, 4, 4, 4),
        "code": (2, FRAMES, 4, 4),
        "quantized": (2, FRAMES, 32, 4, 4),
        "logits": (2, FRAMES, 64, 4, 4),
    }
    torch.testing.assert_close(output["attention"].sum(dim=2), torch.ones(2, FRAMES, 4, 4))


def test_gradients():
    check_gradients(make("STEVE").train(), batch())


def test_chunks_change_nothing(monkeypatch):
    model, inputs = make("STEVE").eval(), batch(frames=5)
    with torch.no_grad():
        expected = model(**inputs)
        monkeypatch.setattr(temporal, "FRAMES_AT_ONCE", 3)
        output = model(**inputs)
    check_close(output, expected)
    assert output["logits"].stride() == expected["logits"].stride()


def test_codes_of_several_groups():
    model = make("STEVE", codes="grouped", num_codes=[8, 8]).eval()
    output = model(**batch())
    assert output["code"].shape == (2, FRAMES, 2, 4, 4)
    assert output["logits"].shape == (2, FRAMES, 16, 4, 4)


def test_needs_boxes_only_if_slots_start_from_them():
    inputs = batch()
    with pytest.raises(ValueError, match="box is missing"):
        make("STEVE")(video=inputs["video"])
    assert make("STEVE").needs == ("video", "box")
    free = make("STEVE", boxes=False).eval()
    assert free.needs == ("video",)
    output = free(video=inputs["video"])
    assert output["slots"].shape == (2, FRAMES, 4, 32)
    assert torch.equal(free(**inputs)["slots"], output["slots"])


def test_a_cached_feature_gives_the_same():
    model, inputs = make("STEVE").eval(), batch()
    expected = model(**inputs)
    check_close(model(**inputs, feature=expected["feature"]), expected, rtol=0, atol=0)


def config(**changes):
    backbone = {
        "type": "Backbone",
        "provider": "timm",
        "name": "vit_small_patch14_dinov2",
        "resolution": [56, 56],
        "pretrained": False,
        "options": {"embed_dim": 48, "depth": 1, "num_heads": 3},
    }
    encoder = {"type": "ImageEncoder", "dim": 32, "width": 16, "pretrained": False}
    quantizer = {"type": "LearnedCodebook", "num_codes": 64, "dim": 32}
    return {
        "type": "STEVE",
        "backbone": backbone,
        "projection": {"type": "MLP", "dims": [48, 96, 32], "norm": True},
        "initializer": {"type": "BoxMLP", "dim": 32},
        "slot_attention": {"type": "SlotAttention", "dim": 32, "num_iterations": 1},
        "predictor": {"type": "SlotPredictor", "dim": 32},
        "tokenizer": {"type": "Tokenizer", "encoder": encoder, "quantizer": quantizer},
        "decoder": {"type": "AutoregressiveTransformer", "grid": [4, 4], "dim": 32, "num_codes": 64},
        **changes,
    }


def test_parts_that_do_not_fit_are_named():
    with pytest.raises(ConfigError, match="slot_attention's dim is 32 but predictor's dim is 16"):
        build(config(predictor={"type": "SlotPredictor", "dim": 16}), "model")
    encoder = {"type": "FeatureEncoder", "input_dim": 48, "dim": 32}
    features = {"type": "Tokenizer", "encoder": encoder, "quantizer": config()["tokenizer"]["quantizer"]}
    with pytest.raises(ConfigError, match=r"3 but tokenizer\.encoder's input_dim is 48"):
        build(config(tokenizer=features), "model")
