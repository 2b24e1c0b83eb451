"""Health of slots: numbers of attention maps that are known by hand, and what is warned about."""

import logging
import math

import pytest
import torch
from torch import nn

from object_centric_bench.learn.health import Watch, gradient_norms, slot_health, without_gradient


def health(attention, slots=None):
    output = {"attention": attention} | ({} if slots is None else {"slots": slots})
    return {name.removeprefix("slots/"): value.tolist() for name, (value, _) in slot_health(output).items()}


def one_hot(owner, count):
    """Attention (1 s h w) that gives each place wholly to a slot."""
    return nn.functional.one_hot(torch.tensor(owner), count).permute(2, 0, 1)[None].float()


def test_slots_that_share_the_picture_out():
    found = health(one_hot([[0, 1], [2, 3]], 4), torch.eye(4)[None])
    assert found["effective"] == pytest.approx([4.0])
    assert found["dead"] == [0.0]
    assert found["duplicate"] == [0.0]
    assert found["attention_entropy"] == pytest.approx([0.0], abs=1e-6)


def test_one_slot_that_takes_all():
    slots = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]])  # the second points where the first does
    found = health(one_hot([[0, 0], [0, 0]], 3), slots)
    assert found["effective"] == pytest.approx([1.0])
    assert found["dead"] == [2.0]
    assert found["duplicate"] == [1.0]


def test_slots_that_see_all_places_alike():
    found = health(torch.full((2, 5, 3, 3), 0.2))
    assert found["effective"] == pytest.approx([5.0, 5.0])
    assert found["attention_entropy"] == pytest.approx([1.0, 1.0])
    assert found["dead"] == [4.0, 4.0]  # ties go to the first
    assert "duplicate" not in found


def test_unequal_shares():
    found = health(one_hot([[0, 0, 0, 1]], 2))
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert found["effective"] == pytest.approx([expected])


def test_frames_of_a_video_are_one_picture():
    frames = torch.stack([one_hot([[0, 0]], 2)[0], one_hot([[1, 1]], 2)[0]])[None]  # b t s h w
    slots = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]])  # b t s d: alike in one frame only
    found = health(frames, slots)
    assert found["effective"] == pytest.approx([2.0])
    assert found["dead"] == [0.0]
    assert found["duplicate"] == [0.0]


def test_models_without_slots_have_no_such_numbers():
    assert slot_health({"reconstruction": torch.zeros(1)}) == {}


def test_gradients_by_part_and_parameters_without_one():
    model = nn.ModuleDict({"used": nn.Linear(2, 1), "idle": nn.Linear(2, 1), "frozen": nn.Linear(2, 1)})
    model["frozen"].requires_grad_(False)
    model["used"](torch.tensor([[3.0, 4.0]])).sum().backward()
    norms = gradient_norms(model)
    assert list(norms) == ["grad_norm/used"]
    assert float(norms["grad_norm/used"]) == pytest.approx(math.sqrt(9 + 16 + 1))
    assert without_gradient(model) == ["idle.weight", "idle.bias"]


@pytest.mark.parametrize(
    ("effective", "spread", "text"),
    [(1.05, 0.1, "one slot takes the whole picture"), (4.9, 0.99, "all slots see all places alike"), (4.0, 0.5, None)],
)
def test_a_collapsed_run_is_warned_about_once_and_not_while_it_begins(caplog, effective, spread, text):
    watch, values = Watch(), {"slots/effective": effective, "slots/attention_entropy": spread}
    with caplog.at_level(logging.WARNING):
        watch.look(values, [], step=9, total_steps=100)
        assert not caplog.records
        watch.look(values, [], step=10, total_steps=100)
        watch.look(values, [], step=11, total_steps=100)
    assert [text in record.getMessage() for record in caplog.records] == ([True] if text else [])


def test_parameters_without_gradient_are_named_once(caplog):
    watch = Watch()
    for step in (1, 2):
        watch.look({}, ["a.weight", "a.bias"], step, 100)
    (record,) = caplog.records
    assert "2 trained parameters get no gradient: a.weight, a.bias" in record.getMessage()
