"""Matching a student's slots with its teacher's, and the loss on them."""

import numpy as np
import pytest
import torch

from object_centric_bench.learn.distillation import MatchedDistillation, match_slots, pairwise_iou, segments

LOGITS = torch.tensor([[2.0, 0, 0, 1], [0, 3, 0, 0], [1, 1, 2, 0]]).view(1, 3, 2, 2)
LABEL = torch.tensor([1, 2, 0, 1]).view(1, 2, 2)


def one_hot(label, count):
    return torch.nn.functional.one_hot(label, count).movedim(-1, 1).float()


def loss(logits, teacher, **options):
    return MatchedDistillation(**options)({}, {"attention_logits": logits, "teacher_mask": teacher})


@pytest.mark.parity
def test_equals_the_reference(golden):
    with np.load(golden / "beyond" / "spot_matching.npz") as file:
        known = {name: torch.from_numpy(file[name]) for name in file.files}
    logits, teacher, label = known["student_logits"], known["teacher_scores"], known["teacher_mask"]
    assert torch.equal(teacher.argmax(dim=1), label)
    assert torch.equal(match_slots(logits, label), known["match"])
    overlap = pairwise_iou(segments(label.flatten(1), 4), segments(logits.argmax(dim=1).flatten(1), 4))
    scores = overlap.gather(2, known["match"][:, :, None])[:, :, 0]
    torch.testing.assert_close(scores, known["scores"], rtol=0, atol=1e-5)
    torch.testing.assert_close(loss(logits, teacher, weight=1.0), known["ce"], rtol=0, atol=1e-5)


def test_an_example_by_hand():
    """Labels and segments (0 1 2 0) are the same places, in other words; of logits, not of probabilities: 0.756410."""
    assert match_slots(LOGITS, LABEL).tolist() == [[2, 0, 1]]
    value = loss(LOGITS, one_hot(LABEL, 3), weight=1.0)
    torch.testing.assert_close(value, torch.tensor(0.342110), rtol=0, atol=1e-6)
    assert float(loss(LOGITS, one_hot(LABEL, 3))) == pytest.approx(0.005 * 0.342110, abs=1e-8)


def test_the_names_of_slots_do_not_count():
    torch.manual_seed(0)
    logits, teacher = torch.randn(4, 5, 6, 6), torch.randn(4, 5, 6, 6)
    expected = loss(logits, teacher)
    torch.testing.assert_close(loss(logits[:, torch.randperm(5)], teacher[:, torch.randperm(5)]), expected)


def test_a_student_that_sees_what_its_teacher_sees_has_nothing_to_learn():
    teacher = torch.randn(2, 4, 5, 5)
    sure = 100 * one_hot(teacher.argmax(dim=1), 4)[:, [2, 0, 3, 1]]
    assert float(loss(sure, teacher, weight=1.0)) < 1e-6


def test_the_gradient_reaches_the_student_alone():
    logits, teacher = torch.randn(2, 4, 5, 5, requires_grad=True), torch.randn(2, 4, 5, 5, requires_grad=True)
    loss(logits, teacher).backward()
    assert (logits.grad.abs() > 0).all()
    assert teacher.grad is None


def test_half_precision_is_computed_in_single():
    logits, teacher = torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5)
    value = loss(logits.bfloat16(), teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.bfloat16().float(), teacher))


def test_other_numbers_of_slots_are_refused():
    with pytest.raises(ValueError, match=r"output.attention_logits is \(1, 3, 2, 2\) and output.teacher_mask is"):
        loss(LOGITS, torch.zeros(1, 4, 2, 2))
