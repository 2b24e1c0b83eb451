"""The loop: order of events, resuming to the bit, averages, stopping."""

import json
import math
import shutil
import time
from types import SimpleNamespace

import pytest
import torch

from object_centric_bench.learn import checkpoint
from object_centric_bench.learn.log import Log
from object_centric_bench.learn.loop import evaluate, train
from object_centric_bench.learn.run import EVENTS, TrainingStopped
from object_centric_bench.learn.save import Save, restore

from .conftest import make_batch, squared_error


class Recorder:
    def __init__(self, stop_at=None):
        self.events, self.stop_at = [], stop_at
        for event in EVENTS:
            setattr(self, event, lambda run, event=event: self.record(run, event))

    def record(self, run, event):
        self.events.append((event, run.step, run.measuring))
        if event == "after_step" and run.step == self.stop_at:
            run.stop = True


def lines(run):
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]


def load_last(run):
    tensors, _ = checkpoint.read(run.folder / "last" / checkpoint.WEIGHTS)
    checkpoint.assign(run.model, tensors, "last")
    restore(run, checkpoint.read_state(run.folder / "last"))


def test_events_come_in_order_and_metrics_only_when_due(make_run):
    recorder = Recorder()
    train(make_run(total_steps=2, eval_every=2, callbacks=[recorder]))
    assert recorder.events == [
        ("before_train", 0, False),
        ("before_step", 0, True),  # metrics at step 0, 5, 10 ...
        ("after_forward", 0, True),
        ("after_step", 1, True),
        ("before_step", 1, False),
        ("after_forward", 1, False),
        ("after_step", 2, False),
        ("after_forward", 2, True),
        ("after_forward", 2, True),
        ("after_eval", 2, False),
        ("after_train", 2, False),
    ]


def test_evaluation_averages_over_images_not_batches(make_run):
    run = make_run()
    evaluate(run)
    values = []
    with torch.no_grad():
        for index in range(100, 104):
            batch = make_batch([index])
            values.append(float(squared_error(batch, run.model(batch["image"]))))
    assert run.result["error"] == pytest.approx(sum(values) / 4, abs=1e-6)
    expected = [float(make_batch([i])["image"][0, 0] > 0) for i in (100, 102)]
    assert run.result["above"] == sum(expected) / 2
    assert run.excluded["above"] == 2


def test_evaluation_repeats_itself_and_leaves_training_noise_alone(make_run):
    run = make_run(loss=lambda batch, output: output["value"].mean() + torch.randn(()))
    before = torch.get_rng_state()
    evaluate(run)
    first = run.result
    evaluate(run)
    assert run.result == first
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_of_evaluation_is_the_same_for_every_seed(make_run):
    results = []
    for seed in (7, 8):
        run = make_run(loss=lambda batch, output: output["value"].mean() + torch.randn(()))
        run.seed = seed
        evaluate(run)
        results.append(run.result)
    assert results[0] == results[1]


@pytest.mark.parametrize("stop_at", [3, 4, 7])
def test_stopping_saving_and_resuming_ends_at_the_same_bits(make_run, stop_at):
    whole = make_run("whole")
    train(whole)

    first = make_run("parts", callbacks=[Log(every=2, tensorboard=False), Save("error", False), Recorder(stop_at)])
    train(first)
    assert first.step == stop_at
    second = make_run("parts", callbacks=[Log(every=2, tensorboard=False), Save("error", False), Recorder()])
    load_last(second)
    assert second.step == stop_at
    train(second)

    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    evals = [[row for row in lines(run) if row["split"] == "eval"] for run in (whole, second)]
    assert evals[0] == evals[1]
    best = [checkpoint.read(run.folder / "best" / checkpoint.WEIGHTS) for run in (whole, second)]
    assert best[0][1] == best[1][1]
    assert all(torch.equal(best[0][0][name], best[1][0][name]) for name in best[0][0])


def test_lines_written_after_the_last_checkpoint_are_written_once_only(make_run):
    whole = make_run("whole")
    train(whole)
    callbacks = [Log(every=2, tensorboard=False), Save("error", False, every_steps=3), Recorder(8)]
    first = make_run("parts", callbacks=callbacks)
    train(first)
    kept = first.folder / "kept"
    shutil.copytree(first.folder / "last", kept)
    idle = Recorder()  # checkpoints tell callbacks by their number
    second = make_run("parts", callbacks=[Log(every=2, tensorboard=False), Save("error", False), idle])
    load_last(second)
    train(second)
    third = make_run(
        "parts", callbacks=[Log(every=2, tensorboard=False), Save("error", False), idle]
    )  # as if killed at the end, with nothing saved after step 8
    shutil.rmtree(third.folder / "last")
    kept.rename(third.folder / "last")
    with (third.folder / "log.jsonl").open("a") as file:
        file.write('{"split": "tr')
    load_last(third)
    train(third)
    for name in ("log.jsonl", "losses.csv"):
        assert (third.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name


def test_an_evaluation_that_was_cut_off_is_made_up_for(make_run):
    whole = make_run("whole")
    train(whole)

    def stop(run):
        if run.step == 8 and run.network.training is False:
            run.stop = True

    first = make_run("parts")
    first.callbacks.append(SimpleNamespace(after_forward=stop))
    train(first)
    assert first.stop and not first.finished
    assert (first.step, first.evaluated) == (8, 4)
    second = make_run("parts")
    second.callbacks.append(SimpleNamespace())
    load_last(second)
    train(second)
    assert second.finished
    for name in ("log.jsonl", "losses.csv"):
        assert (second.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    for name in ("best", "last"):
        (tensors, info), (expected, facts) = (
            checkpoint.read(run.folder / name / checkpoint.WEIGHTS) for run in (second, whole)
        )
        assert info == facts
        assert all(torch.equal(tensors[key], expected[key]) for key in expected), name


def test_losses_of_every_step_are_kept_to_the_last_bit_of_float32(make_run):
    kept = []
    run = make_run()
    run.callbacks.append(SimpleNamespace(after_step=lambda run: kept.append(run.losses["error"])))
    train(run)
    rows = (run.folder / "losses.csv").read_text().splitlines()
    assert rows[0] == "step,error,grad_norm"
    assert [int(row.split(",")[0]) for row in rows[1:]] == list(range(12))
    assert torch.equal(torch.tensor([float(row.split(",")[1]) for row in rows[1:]]), torch.stack(kept))


def test_log_holds_means_of_the_steps_since_the_line_before(make_run):
    run = make_run(callbacks=[Log(every=3, tensorboard=False)])
    losses = []

    class Keep:
        def after_step(self, run):
            losses.append(float(run.losses["error"].detach()))

    run.callbacks.append(Keep())
    train(run)
    rows = [row for row in lines(run) if row["split"] == "train"]
    assert [row["step"] for row in rows] == [3, 6, 9, 12]
    assert rows[1]["loss/error"] == pytest.approx(sum(losses[3:6]) / 3, rel=1e-6)
    assert rows[0]["score/above"] in (0.0, 0.5, 1.0)  # measured at step 0
    assert "score/above" not in rows[2]  # steps 6 to 8: not due


def test_the_time_of_a_run_is_noted_by_what_it_went_into(make_run):
    run = make_run()
    batches = run.train_batches
    run.train_batches = lambda start: (time.sleep(0.01) or batch for batch in batches(start))
    began = time.monotonic()
    train(run)
    whole = time.monotonic() - began
    rows = [json.loads(line) for line in (run.folder / "timing.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12, 12]
    parts = {part: sum(row["seconds"].get(part, 0.0) for row in rows) for part in rows[-1]["seconds"]}
    assert parts.keys() == {"training steps", "waiting for data", "evaluation", "checkpoints"}
    assert parts["waiting for data"] >= 0.12 and all(seconds > 0 for seconds in parts.values())
    assert sum(parts.values()) <= whole


def test_weights_that_are_not_finite_are_never_saved(make_run):
    run = make_run()
    with torch.no_grad():
        run.model.head.weight.fill_(math.nan)
    with pytest.raises(TrainingStopped, match="not finite"):
        run.callbacks[1].after_train(run)
    assert not (run.folder / "last").exists()


def test_best_is_kept_by_the_score_named(make_run):
    run = make_run(total_steps=3, eval_every=100)
    save = run.callbacks[1]
    for value, step in [(3.0, 1), (1.0, 2), (2.0, 3)]:
        run.step, run.result = step, {"error": value}
        save.after_eval(run)
    assert checkpoint.read(run.folder / "best" / checkpoint.WEIGHTS)[1]["step"] == 2
    assert checkpoint.read(run.folder / "last" / checkpoint.WEIGHTS)[1]["step"] == 3
    with pytest.raises(TrainingStopped, match="'mbo'"):
        Save("mbo", True).after_eval(run)


def test_frozen_parts_stay_in_eval_mode_while_training(make_run):
    class Modes:
        def after_forward(self, run):
            if not run.measuring:
                modes.append((run.model.training, run.model.backbone.training))

    modes = []
    train(make_run(callbacks=[Modes()]))
    assert set(modes) == {(True, False)}
