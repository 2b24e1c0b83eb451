"""Numbers gone wrong: counted, explained, and never written over what is good."""

import math

import pytest
import torch

from object_centric_bench.learn import checkpoint
from object_centric_bench.learn.finite import activations, count_step
from object_centric_bench.learn.loop import train
from object_centric_bench.learn.run import TrainingStopped

from .conftest import make_batch, squared_error


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_run_that_stays_not_finite_is_given_up_with_all_that_helps(make_run, value):
    def bad(batch, output):
        return squared_error(batch, output) * (value if 18 <= int(batch["index"][0]) < 100 else 1.0)

    run = make_run(loss=bad, total_steps=20, eval_every=4)
    run.max_not_finite, run.eval_every = 3, 5
    with pytest.raises(TrainingStopped) as caught:
        train(run)
    text = str(caught.value)
    assert "step 8" in text and "from step 6 on" in text
    assert f"error {value}" in text
    assert str(run.folder / "last") in text
    assert "head" in text and "backbone" in text  # activations by module
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    _, info = checkpoint.read(run.folder / "last" / checkpoint.WEIGHTS)
    assert info["step"] == 5


def test_only_steps_in_a_row_count(make_run):
    run = make_run()
    run.max_not_finite = 2
    for step, value in enumerate([math.nan, 1.0, math.nan, 1.0, math.nan]):
        count_step(run, step, {"error": value}, 1.0)
    with pytest.raises(TrainingStopped, match="gradient norm inf"):
        count_step(run, 5, {"error": 1.0}, math.inf)


def test_an_evaluation_that_is_not_finite_stops_the_run_and_saves_nothing(make_run):
    def bad(batch, output):
        return squared_error(batch, output) * (math.nan if int(batch["index"][0]) == 103 else 1.0)

    run = make_run(loss=bad)
    with pytest.raises(TrainingStopped, match="over the evaluation split: error nan; no checkpoint was written yet"):
        train(run)
    assert not (run.folder / "last").exists()


def test_activations_are_those_of_the_latest_batch_and_leave_the_run_alone(make_run):
    run = make_run()
    run.raw = make_batch([1, 2])
    run.output = {"kept": 1}
    with torch.no_grad():
        run.model.backbone.bias.fill_(50.0)
        run.model.head.weight[0, 0] = math.nan
    found = {each.module: each for each in activations(run)}
    assert list(found) == ["backbone", "dropout", "head"]
    image = run.raw["image"]
    expected = (image @ run.model.backbone.weight.T + 50).abs().max()
    assert found["backbone"].largest == pytest.approx(float(expected))
    assert found["backbone"].finite and not found["head"].finite
    assert run.output == {"kept": 1}
    assert not run.model.backbone._forward_hooks
