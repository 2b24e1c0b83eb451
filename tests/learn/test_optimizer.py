"""Optimizers, parameter groups and frozen parts."""

import pytest
import torch
from torch import nn

from object_centric_bench.learn.optimizer import Adam, AdamW, freeze, frozen_modules, parameter_groups, train_mode
from object_centric_bench.registry import ConfigError, build


def make_model() -> nn.Module:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 4))
    return nn.ModuleDict(dict(backbone=backbone, drop=nn.Dropout(0.5), decoder=nn.Linear(4, 2)))


def train(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> None:
    for step in range(5):
        optimizer.zero_grad()
        (parameter * (step + 1)).sin().sum().backward()
        optimizer.step()


@pytest.mark.parametrize(("name", "plain"), [("Adam", torch.optim.Adam), ("AdamW", torch.optim.AdamW)])
def test_optimizers_built_from_a_config_step_like_pytorch(name, plain):
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    node = dict(type=name, lr=0.1, betas=[0.8, 0.9], weight_decay=0.3)
    optimizer = build(node, "optimizer", params=[{"params": [ours], "lr": 0.05, "lr_scale": 0.5}])
    train(optimizer, ours)
    train(plain([theirs], lr=0.05, betas=(0.8, 0.9), weight_decay=0.3), theirs)
    torch.testing.assert_close(ours, theirs)
    assert optimizer.param_groups[0]["lr_scale"] == 0.5
    assert optimizer.defaults["fused"]


def test_optimizers_take_iterators_and_refuse_typos():
    model = make_model()
    assert len(Adam(model.parameters(), lr=1e-3).param_groups[0]["params"]) == 6
    assert len(AdamW([{"params": model.parameters()}], lr=1e-3).param_groups[0]["params"]) == 6
    with pytest.raises(ConfigError, match=r"optimizer\.weight_deacy: Adam takes no 'weight_deacy'; did you mean"):
        build(dict(type="Adam", lr=1e-3, weight_deacy=0.1), "optimizer", params=model.parameters())
    with pytest.raises(ConfigError, match=r"optimizer: Invalid learning rate"):
        build(dict(type="Adam", lr=-1.0), "optimizer", params=model.parameters())


def test_each_parameter_falls_into_one_group():
    model = make_model()
    model.decoder.bias.requires_grad_(False)
    groups = [
        dict(pattern=r"backbone\..*weight", lr_scale=0.1, weight_decay=0.5),
        dict(pattern=r"backbone\..*bias"),
    ]
    weights, biases, rest = parameter_groups(model, groups, lr=2.0)
    backbone = model.backbone
    assert weights == dict(
        params=[backbone[0].weight, backbone[3].weight],
        lr=0.2,
        lr_scale=0.1,
        weight_decay=0.5,
        name=groups[0]["pattern"],
    )
    assert biases["params"] == [backbone[0].bias, backbone[3].bias]
    assert (biases["lr"], biases["lr_scale"]) == (2.0, 1.0)
    assert rest == dict(params=[model.decoder.weight], lr=2.0, lr_scale=1.0, name="default")
    optimizer = Adam(parameter_groups(model, groups, lr=2.0), lr=2.0)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0, 0]


@pytest.mark.parametrize("groups", [None, []])
def test_without_groups_all_trainable_parameters(groups):
    model = make_model()
    (group,) = parameter_groups(model, groups, lr=1.0)
    assert group["params"] == list(model.parameters())


def test_no_default_group_when_nothing_is_left():
    (group,) = parameter_groups(make_model(), [dict(pattern=".*")], lr=1.0)
    assert group["name"] == ".*"


def test_all_faults_of_groups_at_once():
    groups = [
        dict(pattern=r"decoder\..*"),
        dict(pattern=r".*\.bias"),
        dict(pattern=r"backbon\..*"),
        dict(pattern="("),
        dict(lr_scale=0.1),
        dict(pattern=r"backbone\.0\.weight", lr_scal=0.1),
    ]
    with pytest.raises(ConfigError) as caught:
        parameter_groups(make_model(), groups, lr=1.0)
    lines = str(caught.value).splitlines()
    assert sorted(line.split(":")[0] for line in lines) == [
        "groups.1.pattern",
        "groups.2.pattern",
        "groups.3.pattern",
        "groups.4.pattern",
        "groups.5.lr_scal",
    ]
    text = str(caught.value)
    assert r"groups.1.pattern: 'decoder.bias' matches 'decoder\\..*' as well" in text
    assert (
        r"groups.2.pattern: 'backbon\\..*' matches no trainable parameter as a whole name; near names: backbone" in text
    )
    assert "groups.5.lr_scal: a group takes no 'lr_scal'; did you mean 'lr_scale'?" in text


def test_frozen_parameters_belong_to_no_group():
    model = make_model()
    freeze(model, [r"backbone\..*"])
    with pytest.raises(ConfigError, match="matches no trainable parameter"):
        parameter_groups(model, [dict(pattern=r"backbone\..*")], lr=1.0)
    freeze(model, [".*"])
    with pytest.raises(ConfigError, match="nothing is left to train"):
        parameter_groups(model, None, lr=1.0)


def test_freeze_matches_whole_names():
    model = make_model()
    freeze(model, [r"backbone\.0\..*", "decoder.bias"])
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable == ["backbone.3.weight", "backbone.3.bias", "decoder.weight"]


def test_wrong_patterns_freeze_nothing_and_are_all_named():
    model = make_model()
    with pytest.raises(ConfigError) as caught:
        freeze(model, ["decoder.bias", "backbone", "decodr.*", "zzzzzz", "("])
    backbone, decoder, unlike, broken = str(caught.value).splitlines()
    assert backbone.startswith("freeze: 'backbone' matches no parameter as a whole name; near names: backbone")
    assert decoder.startswith("freeze: 'decodr.*' matches no parameter as a whole name; near names: decoder")
    assert unlike.endswith("near names: backbone, decoder")
    assert broken.startswith("freeze: '(' is no regular expression")
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_frozen_parts_run_in_eval_mode():
    model = make_model()
    freeze(model, [r"backbone\..*", r"decoder\.bias"])
    assert frozen_modules(model) == {model.backbone, model.backbone[0], model.backbone[3]}
    model.eval()
    train_mode(model)
    assert not any(module.training for module in model.backbone.modules())  # dropout and running statistics too
    assert model.training
    assert model.drop.training
    assert model.decoder.training


def test_modules_without_parameters_are_not_frozen():
    model = nn.Sequential(nn.Dropout(0.5), nn.ReLU())
    assert frozen_modules(model) == set()
    train_mode(model)
    assert all(module.training for module in model.modules())


def test_fully_frozen_model_runs_in_eval_mode():
    model = make_model()
    freeze(model, [".*"])
    assert model in frozen_modules(model)
    train_mode(model)
    assert not any(module.training for module in model.modules())
