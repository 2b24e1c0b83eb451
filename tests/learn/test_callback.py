"""Callbacks that compute: segments from masks, the target of a reconstruction."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from object_centric_bench.learn.callback import MaskToSegment, ReconstructionTarget, mask_to_segment
from object_centric_bench.learn.loss import MSE
from object_centric_bench.registry import ConfigError


def test_segment_is_the_largest_mask_at_the_pictures_size():
    mask = torch.tensor([[[[0.9, 0.1]], [[0.1, 0.9]]]])  # b s h w: left is slot 0, right is slot 1
    assert mask_to_segment(mask, [2, 4]).tolist() == [[[0, 0, 1, 1], [0, 0, 1, 1]]]
    tie = torch.full((1, 3, 1, 1), 1 / 3)
    assert mask_to_segment(tie, [1, 1]).item() == 0  # the first


def test_segments_of_a_video_are_those_of_its_frames():
    mask = torch.rand(2, 3, 4, 5, 5)  # b t s h w
    segment = mask_to_segment(mask, [8, 8])
    assert segment.shape == (2, 3, 8, 8)
    assert segment.dtype == torch.uint8
    assert torch.equal(segment.flatten(0, 1), mask_to_segment(mask.flatten(0, 1), [8, 8]))


def test_segments_are_made_only_where_they_are_wanted():
    callback = MaskToSegment("output.attention", [4, 4])
    run = SimpleNamespace(batch={}, output={"attention": torch.rand(2, 3, 2, 2)}, measuring=False)
    callback.after_forward(run)
    assert "segment" not in run.output
    run.measuring = True
    callback.after_forward(run)
    assert run.output["segment"].shape == (2, 4, 4)
    assert run.output["segment_mask"] is run.output["attention"]


def test_more_than_256_masks_need_wider_indices():
    mask = torch.zeros(1, 300, 1, 1)
    mask[0, 299] = 1
    assert mask_to_segment(mask, [1, 1]).item() == 299


def test_more_objects_than_slots_are_said_once(caplog):
    callback = MaskToSegment("output.attention", [4, 4])
    segment = torch.tensor([[[0, 1], [2, 0]], [[1, 2], [3, 4]]], dtype=torch.uint8)
    run = SimpleNamespace(measuring=True, batch={"segment": segment}, output={"attention": torch.rand(2, 3, 2, 2)})
    for _ in range(2):
        callback.after_forward(run)
        callback.after_eval(run)
    assert [record.message for record in caplog.records] == [
        "1 of 2 scored samples have more objects (up to 4) than the model has slots (3): some objects must share one "
        "(knob num_slots)"
    ]


def test_what_was_counted_of_crowded_samples_survives_a_restart(caplog):
    before, after = (MaskToSegment("output.attention", [4, 4]) for _ in range(2))
    run = SimpleNamespace(measuring=True, output={"attention": torch.rand(1, 3, 2, 2)})
    for callback, most in ((before, 5), (after, 4)):
        run.batch = {"segment": torch.full((1, 2, 2), most, dtype=torch.uint8)}
        callback.load_state_dict(before.state_dict())
        callback.after_forward(run)
    after.after_eval(run)
    assert caplog.messages[0].startswith(
        "2 of 2 scored samples have more objects (up to 5) than the model has slots (3)"
    )
    after.load_state_dict({"crowded": 1, "samples": 1, "warned": False})  # of an older version
    assert after.most == 0


def test_target_is_the_picture_at_the_reconstructions_size():
    image = torch.rand(2, 3, 8, 8)
    run = SimpleNamespace(batch={"image": image}, output={"reconstruction": torch.zeros(2, 3, 4, 4)})
    ReconstructionTarget().after_forward(run)
    assert torch.equal(run.batch["target"], F.interpolate(image, size=(4, 4), mode="bicubic", antialias=True))


def test_target_of_a_video_is_made_frame_by_frame():
    video = torch.rand(2, 3, 3, 8, 8)
    run = SimpleNamespace(batch={"video": video}, output={"reconstruction": torch.zeros(2, 3, 3, 4, 4)})
    ReconstructionTarget(image="batch.video").after_forward(run)
    assert run.batch["target"].shape == (2, 3, 3, 4, 4)
    frame = F.interpolate(video[:, 1], size=(4, 4), mode="bicubic", antialias=True)
    torch.testing.assert_close(run.batch["target"][:, 1], frame)


def test_every_scale_has_a_target_made_of_the_full_picture():
    image = torch.rand(2, 3, 16, 16)
    made = [torch.zeros(2, 3, size, size) for size in (8, 4, 2)]
    run = SimpleNamespace(batch={"image": image}, output={"reconstruction": made})
    ReconstructionTarget().after_forward(run)
    for target, one in zip(run.batch["target"], made, strict=True):
        expected = F.interpolate(image, size=one.shape[2:], mode="bicubic", antialias=True)
        assert torch.equal(target, expected)
    assert MSE("output.reconstruction.1", "batch.target.1")(run.batch, run.output) > 0


def test_target_of_something_that_is_not_there():
    run = SimpleNamespace(batch={"image": torch.rand(2, 3, 8, 8)}, output={"latent": torch.zeros(1)})
    with pytest.raises(ConfigError, match=r"ReconstructionTarget\.reconstruction: there is no"):
        ReconstructionTarget().after_forward(run)
