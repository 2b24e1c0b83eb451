"""Parts of what several processes have add up to the whole."""

import pytest
import torch

from object_centric_bench.datum.loader import Schedule, part
from object_centric_bench.learn.distillation import MatchedDistillation
from object_centric_bench.learn.gather import Agreement, Processes
from object_centric_bench.learn.log import add_processes
from object_centric_bench.learn.loss import MSE, CrossEntropy, UnitNorm
from object_centric_bench.learn.metric import Average
from object_centric_bench.learn.perceptual import LPIPS
from object_centric_bench.learn.similarity import TemporalSimilarity


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_sample_of_every_epoch_goes_to_one_process(count):
    num_samples, batch_size, steps = 13, 4, 12
    schedules = [list(Schedule(num_samples, batch_size, 7, 0, steps, rank, count)) for rank in range(count)]
    whole = list(Schedule(num_samples, batch_size, 7, 0, steps))
    for step in range(steps):
        shares = [part(num_samples, batch_size, step, rank, count) for rank in range(count)]
        assert sum(shares) == pytest.approx(1.0)
        own = [schedules[rank][step] for rank in range(count)]
        assert all(own)  # each process has something to compute
        counted = [sample for rank in range(count) if shares[rank] for sample in own[rank]]
        assert sorted(counted) == sorted(whole[step])
        assert [len(own[rank]) / len(whole[step]) for rank in range(count) if shares[rank]] == pytest.approx(
            [share for share in shares if share]
        )


LOSSES = {
    "MSE": (MSE("output.a", "output.b"), {"a": (5, 2, 3, 3), "b": (5, 2, 3, 3)}),
    "CrossEntropy": (CrossEntropy("output.a", "output.code"), {"a": (5, 4, 3, 3)}),
    "UnitNorm": (UnitNorm("output.a", weight=0.5), {"a": (5, 2, 3, 3)}),
    "LPIPS": (LPIPS("output.a", "output.b", pretrained=False), {"a": (5, 3, 32, 32), "b": (5, 3, 32, 32)}),
    "TemporalSimilarity": (
        TemporalSimilarity("output.a", "output.b", 0.1),
        {"a": (5, 3, 4, 2, 2), "b": (5, 3, 6, 2, 2)},
    ),
    "MatchedDistillation": (MatchedDistillation("output.a", "output.b"), {"a": (5, 3, 4, 4), "b": (5, 3, 4, 4)}),
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_a_mean_over_samples(name):
    """What splitting a batch over processes and pieces rests on."""
    loss, shapes = LOSSES[name]
    torch.manual_seed(0)
    output = {key: torch.randn(shape) for key, shape in shapes.items()} | {"code": torch.randint(4, (5, 3, 3))}
    whole = loss({}, output)
    parts = [(2, {key: value[:2] for key, value in output.items()}), (3, {k: v[2:] for k, v in output.items()})]
    weighted = sum(size / 5 * loss({}, piece) for size, piece in parts)
    torch.testing.assert_close(weighted, whole, rtol=1e-5, atol=1e-6)
    assert not torch.isclose(loss({}, parts[0][1]), whole, rtol=1e-4)  # or the weights would not matter


def test_averages_of_processes_add_up():
    values, valid = torch.arange(6.0), torch.tensor([True, True, False, True, True, True])
    whole, first, second, third = Average(), Average(), Average(), Average()
    whole.update({"x": (values, valid)})
    first.update({"x": (values[:4], valid[:4])})
    second.update({"x": (values[4:], valid[4:])})
    total = Average.total([first.sums(), second.sums(), third.sums()])
    assert total.result() == whole.result()
    assert total.excluded() == whole.excluded() == {"x": 1}
    first = Average.total([first.sums()])  # restored from a checkpoint, it goes on to the same bits
    first.update({"x": (values[4:], valid[4:])})
    assert first.sums() == whole.sums()


class Two:
    """Stands for two processes with given answers of the other."""

    def __init__(self, other):
        self.other = other

    def gather(self, value):
        return [value, self.other]


def test_losses_add_up_and_the_gradients_norm_is_the_same():
    rows = add_processes(Two([[0.25, 3.0, 7.0], [0.5, 1.0, 8.0]]), [[1.0, 2.0, 7.0], [1.5, 0.0, 8.0]])
    assert rows == [[1.25, 5.0, 7.0], [2.0, 1.0, 8.0]]


def test_one_process_agrees_with_itself_at_once():
    agreement = Agreement(Processes())
    assert [agreement(wish) for wish in (False, True, False)] == [False, True, False]
    assert Processes().gather("x") == ["x"]
    assert Processes().main
    Processes().wait()
