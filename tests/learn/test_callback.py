"""Callbacks that compute: segments from masks, the target of a reconstruction."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F

from object_centric_bench.learn.callback import MaskToSegment, ReconstructionTarget, mask_to_segment


def test_segment_is_the_largest_mask_at_the_pictures_size():
    mask = torch.tensor([[[[0.9, 0.1]], [[0.1, 0.9]]]])  # b s h w: left is slot 0, right is slot 1
    assert mask_to_segment(mask, [2, 4]).tolist() == [[[0, 0, 1, 1], [0, 0, 1, 1]]]
    tie = torch.full((1, 3, 1, 1), 1 / 3)
    assert mask_to_segment(tie, [1, 1]).item() == 0  # the first


def test_segments_are_made_only_where_they_are_wanted():
    callback = MaskToSegment("output.attention", [4, 4])
    run = SimpleNamespace(batch={}, output={"attention": torch.rand(2, 3, 2, 2)}, measuring=False)
    callback.after_forward(run)
    assert "segment" not in run.output
    run.measuring = True
    callback.after_forward(run)
    assert run.output["segment"].shape == (2, 4, 4)
    assert run.output["segment_mask"] is run.output["attention"]


def test_target_is_the_picture_at_the_reconstructions_size():
    image = torch.rand(2, 3, 8, 8)
    run = SimpleNamespace(batch={"image": image}, output={"reconstruction": torch.zeros(2, 3, 4, 4)})
    ReconstructionTarget().after_forward(run)
    assert torch.equal(run.batch["target"], F.interpolate(image, size=(4, 4), mode="bicubic", antialias=True))
