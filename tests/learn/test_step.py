"""One step: pieces of a batch give the gradient of the whole, a gradient that is not finite changes nothing."""

import json
from itertools import pairwise

import pytest
import torch
from torch import nn

from object_centric_bench.learn.gather import Processes
from object_centric_bench.learn.loop import train
from object_centric_bench.learn.optimizer import Adam
from object_centric_bench.learn.run import TrainingStopped, seed_noise
from object_centric_bench.learn.step import pieces, require_gradients, skip_inside

from .conftest import squared_error


@pytest.mark.parametrize(("size", "count"), [(5, 2), (8, 5), (7, 7), (6, 1)])
def test_pieces_hold_every_sample_once_in_order(size, count):
    batch = {"index": torch.arange(size), "name": [str(i) for i in range(size)], "fps": 12}
    found = list(pieces(batch, count))
    assert len(found) == count
    assert torch.cat([piece["index"] for piece in found]).tolist() == list(range(size))
    assert [name for piece in found for name in piece["name"]] == batch["name"]
    assert {piece["fps"] for piece in found} == {12}
    sizes = [len(piece["index"]) for piece in found]
    assert max(sizes) - min(sizes) <= 1
    assert sizes[0] == max(sizes)


def weights_after(run):
    run.model.dropout.p = 0.0  # noise has a seed per piece
    train(run)
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


@pytest.mark.parametrize(("option", "value"), [("accumulate", 3), ("accumulate", 2), ("micro_batch", 1)])
def test_a_batch_in_pieces_trains_like_the_whole(make_run, option, value):
    whole, cut = make_run("whole"), make_run("cut")
    setattr(cut, option, value)
    torch.testing.assert_close(weights_after(cut), weights_after(whole), rtol=1e-5, atol=1e-6)
    logs = [(run.folder / "losses.csv").read_text().splitlines() for run in (whole, cut)]
    rows = [[[float(cell) for cell in line.split(",")] for line in log[1:]] for log in logs]
    torch.testing.assert_close(torch.tensor(rows[1]), torch.tensor(rows[0]), rtol=1e-5, atol=1e-6)


def test_metrics_of_pieces_are_those_of_the_batch(make_run):
    whole, cut = make_run("whole"), make_run("cut")
    cut.accumulate = 2
    for run in (whole, cut):
        run.model.dropout.p = 0.0
        train(run)
    scores = [[row["score/above"] for row in lines(run) if "score/above" in row] for run in (whole, cut)]
    assert len(scores[0]) == 3  # measured at steps 0, 5 and 10
    assert scores[0] == scores[1]


def test_steps_with_a_gradient_that_is_not_finite_change_nothing(make_run):
    def bad(batch, output):
        return squared_error(batch, output) * (float("nan") if int(batch["index"][0]) in (9, 12) else 1.0)

    class Weights:
        def after_step(self, run):
            seen.append(run.model.head.weight.detach().clone())

    seen = []
    run = make_run(loss=bad)
    run.callbacks.append(Weights())
    train(run)  # two bad steps in a row are fewer than max_not_finite
    same = [torch.equal(first, second) for first, second in pairwise(seen)]
    assert [step + 1 for step, equal in enumerate(same) if equal] == [3, 4]
    assert all(torch.isfinite(each).all() for each in seen)
    assert [row["skipped_steps"] for row in lines(run)] == [0, 1, 1, 0, 0, 0]


def lines(run):
    rows = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["split"] == "train"]


def test_a_fused_optimizer_skips_on_the_device():
    """What runs on a GPU without waiting for it; the fused kernel for the CPU takes the same interface."""
    results = []
    for finite in (True, False, None):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
        for step in range(2):
            model.weight.grad, model.bias.grad = torch.ones(2, 3), torch.ones(2)
            if finite is not None:
                skip_inside(optimizer, torch.tensor(finite or step == 0))
            optimizer.step()
        state = optimizer.state[model.weight]
        results.append((model.weight.detach().clone(), float(state["step"]), state["exp_avg"].clone()))
    assert torch.equal(results[0][0], results[2][0])  # finite: as without
    assert results[0][1] == 2
    assert not torch.equal(results[1][0], results[0][0])
    assert results[1][1] == 1  # not even the count of steps moved
    assert float(results[1][2].max()) == pytest.approx(0.1)


def test_our_optimizers_keep_the_attributes_that_skipping_needs():
    optimizer = Adam(nn.Linear(2, 2).parameters(), lr=0.1)
    skip_inside(optimizer, torch.tensor(True))
    assert float(optimizer.found_inf) == 0.0


def test_several_processes_need_a_gradient_for_every_parameter(make_run):
    run = make_run()
    run.model.idle = nn.Linear(2, 2)
    parameters = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    for parameter in run.model.head.parameters():
        parameter.grad = torch.zeros_like(parameter)
    require_gradients(run, parameters)  # one process does not
    run.processes = Processes(0, 2)
    with pytest.raises(
        TrainingStopped, match=r"2 trained parameters get no gradient in step 0, among them idle\.weight"
    ):
        require_gradients(run, parameters)
    run.model.find_unused_parameters = True
    require_gradients(run, parameters)


def test_noise_depends_on_all_numbers_and_repeats():
    draws = {}
    for numbers in [(1, 2, 0, 0), (1, 3, 0, 0), (2, 2, 0, 0), (1, 2, 1, 0), (1, 2, 0, 1)]:
        seed_noise(torch.device("cpu"), *numbers)
        draws[numbers] = torch.randn(8)
    values = list(draws.values())
    assert all(not torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])
    seed_noise(torch.device("cpu"), 1, 2, 0, 0)
    assert torch.equal(torch.randn(8), draws[1, 2, 0, 0])
