import math

import pytest
import torch

from object_centric_bench.model.initializer import BoxMLP, PerSlotGaussian, SharedGaussian


def test_per_slot_gaussian_is_noisy_in_training_only():
    torch.manual_seed(0)
    initializer = PerSlotGaussian(num_slots=3, dim=64)
    slots = initializer(500)
    assert slots.shape == (500, 3, 64)
    torch.testing.assert_close(slots.std(dim=0).mean().item(), 1 / 8, rtol=0.02, atol=0)  # dim ** -0.5
    assert initializer.mean.abs().max() <= math.sqrt(6 / (3 + 64))
    initializer.eval()
    assert torch.equal(initializer(2), initializer.mean.expand(2, -1, -1))


def test_shared_gaussian_takes_any_number_of_slots():
    initializer = SharedGaussian(num_slots=3, dim=8).eval()
    assert initializer(2).shape == (2, 3, 8)
    assert initializer(2, num_slots=5).shape == (2, 5, 8)
    slots = initializer(1)
    assert not torch.equal(slots[:, 0], slots[:, 1])


def test_equal_boxes_give_equal_slots():
    slots = BoxMLP(dim=8)(torch.zeros(1, 2, 4))
    assert slots.shape == (1, 2, 8)
    assert torch.equal(slots[:, 0], slots[:, 1])
    with pytest.raises(ValueError, match="box has shape"):
        BoxMLP(dim=8)(torch.zeros(1, 2, 5))


def test_no_slots_are_refused():
    for cls in (PerSlotGaussian, SharedGaussian):
        with pytest.raises(ValueError, match="num_slots"):
            cls(num_slots=0, dim=8)


def test_slots_of_empty_boxes_do_not_take_part_unless_asked_to():
    box = torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 0.5]]])
    assert BoxMLP(dim=8).valid(box).tolist() == [[True, False], [True, True]]
    assert BoxMLP(dim=8).valid(torch.zeros(1, 2, 4)).tolist() == [[True, True]]  # somebody has to explain the image
    assert BoxMLP(dim=8, keep_empty=True).valid(box) is None
