import pytest
import torch

from object_centric_bench.model import temporal

from .videos import FRAMES, batch, check_close, check_gradients, frame_by_frame, make

METHODS = ["VVOTfdT", "VVOMlpT", "VVODfzT"]
SHAPES = {
    "feature": (48, 4, 4),
    "slots": (4, 32),
    "attention": (4, 4, 4),
    "code": (4, 4),
    "quantized": (32, 4, 4),
}
OWN = {
    "VVOTfdT": {"logits": (64, 4, 4)},
    "VVOMlpT": {"mask": (4, 4, 4), "quantized_reconstruction": (32, 4, 4), "feature_reconstruction": (48, 4, 4)},
    "VVODfzT": {"quantized": (4, 4, 4), "prediction": (4, 4, 4), "noise": (4, 4, 4)},
}


def with_noise(method, inputs):
    """Add to the inputs what a diffusion decoder would draw."""
    if method != "VVODfzT":
        return inputs
    generator = torch.Generator().manual_seed(2)
    size = inputs["video"].shape[:2]
    timestep = torch.randint(1000, size, generator=generator)
    return {**inputs, "timestep": timestep, "noise": torch.randn(*size, 4, 4, 4, generator=generator)}


@pytest.mark.parametrize("method", METHODS)
def test_equals_frame_by_frame(method):
    model, inputs = make(method).eval(), with_noise(method, batch())
    output = model(**inputs)
    check_close(output, frame_by_frame(model, **inputs))
    for key, shape in {**SHAPES, **OWN[method]}.items():
        assert output[key].shape == (2, FRAMES, *shape), key
    for key in {"attention", "mask"} & output.keys():
        torch.testing.assert_close(output[key].sum(dim=2), torch.ones(2, FRAMES, 4, 4))
    assert output["code"].dtype == torch.int64


@pytest.mark.parametrize("method", METHODS)
def test_gradients(method):
    model = make(method).train()
    if method == "VVODfzT":  # starts from what is drawn, and its last layer may start at zero
        torch.manual_seed(3)
    check_gradients(model, batch())


@pytest.mark.parametrize("method", METHODS)
def test_chunks_change_nothing(method, monkeypatch):
    model, inputs = make(method).eval(), batch(frames=5)
    outputs = []
    for size in (24, 3):
        monkeypatch.setattr(temporal, "FRAMES_AT_ONCE", size)
        torch.manual_seed(4)
        with torch.no_grad():
            outputs.append(model(**inputs))
    check_close(*outputs)


@pytest.mark.parametrize("method", METHODS)
def test_permuting_boxes_permutes_slots(method):
    model, inputs = make(method).eval(), with_noise(method, batch())
    order = torch.tensor([2, 0, 3, 1])
    output, permuted = model(**inputs), model(**{**inputs, "box": inputs["box"][:, :, order]})
    for key in output:
        expected = output[key][:, :, order] if key in ("slots", "attention", "mask") else output[key]
        torch.testing.assert_close(permuted[key], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_later_frames_do_not_change_earlier_ones(method):
    model, inputs = make(method).eval(), with_noise(method, batch())
    output = model(**inputs)
    shorter = model(**{key: value[:, :2] for key, value in inputs.items()})
    check_close(shorter, {key: value[:, :2] for key, value in output.items()})
    changed = {**inputs, "box": torch.cat([inputs["box"][:, :1], torch.rand(2, FRAMES - 1, 4, 4)], dim=1)}
    check_close(model(**changed), output, rtol=0, atol=0)  # boxes of the first frame only


@pytest.mark.parametrize("method", METHODS)
def test_slots_start_from_nothing(method):
    video = batch()["video"]
    with pytest.raises(ValueError, match="box is missing: BoxMLP makes slots from the boxes of the first frame"):
        make(method)(video=video)
    model = make(method, boxes=False)
    assert not torch.equal(model(video=video)["slots"], model(video=video)["slots"])
    model.eval()
    assert torch.equal(model(video=video)["slots"], model(video=video)["slots"])
    check_gradients(model.train(), {"video": video})


@pytest.mark.parametrize("method", METHODS)
def test_a_cached_feature_gives_the_same(method):
    model, inputs = make(method).eval(), with_noise(method, batch())
    expected = model(**inputs)
    video = inputs.pop("video")
    check_close(model(**inputs, feature=expected["feature"]), expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="neither video nor feature is given"):
        model(box=inputs["box"])
    with pytest.raises(ValueError, match="feature has shape"):
        model(**inputs, feature=expected["feature"][:, 0])
    with pytest.raises(ValueError, match="video has shape"):
        model(**inputs, video=video[:, 0])
    with pytest.raises(ValueError, match="box has shape"):
        model(video=video, box=inputs["box"][:, 0])


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_trains(method):
    model = make(method).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch())
    assert output["slots"].dtype == torch.float32
    for key in {"attention", "mask"} & output.keys():
        torch.testing.assert_close(output[key].sum(dim=2).float(), torch.ones(2, FRAMES, 4, 4), rtol=0, atol=1e-5)
    check_gradients(model, batch())


@pytest.mark.parametrize("method", METHODS)
def test_slots_of_empty_boxes_win_no_place_unless_the_config_keeps_them(method):
    model, inputs = make(method).eval(), with_noise(method, batch())
    inputs["box"][1, :, 2:] = 0
    output = model(**inputs)
    assert torch.equal(output["slots"][1, :, 2], output["slots"][1, :, 3])  # two slots with one job
    assert output["attention"][1, :, 2:].amin() > 0
    model.initializer.keep_empty = False
    output = model(**inputs)
    for key in {"attention", "mask"} & output.keys():
        assert not output[key][1, :, 2:].any()
        assert output[key][0].amin() > 0
        torch.testing.assert_close(output[key].sum(dim=2), torch.ones(2, FRAMES, 4, 4))
    inputs["box"] = torch.zeros_like(inputs["box"])
    assert all(value.isfinite().all() for value in model(**inputs).values())


def test_codes_are_drawn_in_training_and_the_nearest_in_evaluation():
    model, inputs = make("VVOTfdT"), batch()
    nearest = model.eval()(**inputs)["code"]
    model.train()
    assert not model.tokenizer.training and not model.backbone.training
    assert not torch.equal(model(**inputs)["code"], nearest)
    model.sample_codes = False
    assert torch.equal(model(**inputs)["code"], nearest)


def test_stage_one_takes_videos_as_images():
    model, video = make("VQDINO").eval(), batch()["video"]
    output = model(video=video)
    frames = model(image=video.flatten(0, 1))
    assert output.keys() == frames.keys()
    check_close(output, {key: value.unflatten(0, (2, FRAMES)) for key, value in frames.items()})
    check_close(model(feature=output["feature"]), output, rtol=0, atol=0)
    check_close(model(feature=frames["feature"]), frames, rtol=0, atol=0)
    with pytest.raises(ValueError, match="both image and video are given"):
        model(image=video[:, 0], video=video)
    with pytest.raises(ValueError, match="video has shape"):
        model(video=video[0])
