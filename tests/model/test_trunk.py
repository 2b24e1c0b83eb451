"""Backbones that share their first blocks: run once, the same results, both whole in a checkpoint."""

import pytest
import torch

from object_centric_bench.learn import checkpoint
from object_centric_bench.model.backbone import Backbone
from object_centric_bench.model.trunk import extract_both, share_blocks

from .sizes import tiny_backbone
from .test_spot import make_distill


@pytest.fixture
def image():
    torch.manual_seed(1)
    return torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize("final_norm", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_features_are_those_of_each_backbone_by_itself(final_norm, count, image):
    torch.manual_seed(0)
    source, other = tiny_backbone(depth=3), tiny_backbone(depth=3)
    for backbone in (source, other):
        backbone.final_norm = final_norm
        for parameter in backbone.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    share_blocks(source, other, count)
    found = extract_both(source, other, count, image)
    assert torch.equal(found[0], source(image)) and torch.equal(found[1], other(image))
    assert not torch.allclose(*found, atol=0.1)
    theirs = dict(source.model.named_parameters())
    own = {name for name, parameter in other.model.named_parameters() if parameter is not theirs[name]}
    assert own == {name for name in theirs if name.startswith(("norm.", "blocks.2.", f"blocks.{count}."))}


def test_shared_blocks_run_once_and_change_nothing(image):
    apart, shared = make_distill().eval(), make_distill(shared_blocks=1).eval()
    weights = apart.state_dict()
    for name in list(weights):
        if name.startswith("backbone.") and ".blocks.1." not in name:
            weights[name] = weights[f"teacher.{name}"]
    apart.load_state_dict(weights)
    shared.load_state_dict(weights)
    calls = []
    shared.teacher.backbone.model.patch_embed.register_forward_hook(lambda *_: calls.append("patches"))
    shared.backbone.model.blocks[0].register_forward_hook(lambda *_: calls.append("block"))
    found = []
    for model in (apart, shared):
        torch.manual_seed(2)
        found.append(model(image))
    assert calls == ["patches", "block"]
    for key, expected in found[0].items():
        torch.testing.assert_close(found[1][key], expected)


def test_a_checkpoint_holds_both_whole_backbones_although_they_share_blocks(tmp_path):
    model, other = make_distill(shared_blocks=1), make_distill()
    checkpoint.save(tmp_path / "best", model, {})
    tensors, _ = checkpoint.read(checkpoint.find(tmp_path / "best"))
    assert tensors.keys() == other.state_dict().keys()
    for parameter in other.parameters():
        parameter.data.zero_()
    checkpoint.assign(other, tensors, "best")
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("other", "count", "message"),
    [
        (tiny_backbone, 2, r"shared_blocks is 1 to 1 of a backbone that gives its last block of 2, got 2"),
        (tiny_backbone, 0, r"shared_blocks is 1 to 1 of a backbone that gives its last block of 2, got 0"),
        (lambda: tiny_backbone(depth=3), 1, "differ in kind or resolution"),
        (lambda: tiny_backbone(resolution=(28, 28)), 1, "differ in kind or resolution"),
        (
            lambda: Backbone("timm", "test_resnet", [64, 64], pretrained=False),
            1,
            "shared_blocks: 1 needs vision transformers of timm as backbones, or 0",
        ),
    ],
)
def test_backbones_that_cannot_share_are_refused(other, count, message):
    with pytest.raises(ValueError, match=message):
        share_blocks(tiny_backbone(), other(), count)
