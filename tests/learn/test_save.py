"""Checkpoints while training: which step is the best, when `last` is written, and when nothing may be."""

from types import SimpleNamespace

import pytest
import torch

from object_centric_bench.learn.gather import Processes
from object_centric_bench.learn.loop import train
from object_centric_bench.learn.save import Save
from object_centric_bench.registry import ConfigError


def run_at(step, value):
    """Return as much of a run as the callback looks at."""
    accelerator = SimpleNamespace(scaler=None)
    return SimpleNamespace(
        folder="there", step=step, total_steps=30, evaluated=step, result={"recon": value}, loss={"recon": None},
        processes=Processes(), accelerator=accelerator, grad_norm=None,
    )  # fmt: skip


def saved_by(callback, values, monkeypatch):
    """Return the steps at which a run whose evaluations report these values, one every ten steps, saved its best."""
    saved = []
    monkeypatch.setattr(callback, "_save", lambda run, name, state: saved.append(run.step) if name == "best" else None)
    monkeypatch.setattr(callback, "_save_last", lambda run: None)
    for index, value in enumerate(values, start=1):
        callback.after_eval(run_at(10 * index, value))
    return saved


def test_best_is_chosen_from_a_step_on(monkeypatch):
    errors = [0.1, 0.3, 0.5, 0.4, 0.6]  # the lowest while the decoder still saw latents
    assert saved_by(Save("recon", higher=False), errors, monkeypatch) == [10]
    late = Save("recon", higher=False, from_step=30)
    assert saved_by(late, errors, monkeypatch) == [30, 40]
    assert late.state_dict() == {"best_value": 0.4}


def test_a_run_too_short_for_any_best_checkpoint_is_refused():
    with pytest.raises(ConfigError, match="from step 31 on: total_steps is 30"):
        Save("recon", higher=False, from_step=31).before_train(run_at(0, None))
    Save("recon", higher=False, from_step=30).before_train(run_at(0, None))


class Watched(Save):
    """Notes the steps at which it saves."""

    def __init__(self, **options):
        super().__init__("error", higher=False, **options)
        self.steps = []

    def _save_last(self, run):
        self.steps.append(run.step)
        super()._save_last(run)


def test_last_is_saved_every_some_steps_and_after_evaluations(make_run):
    save = Watched(every_steps=3)
    run = make_run(callbacks=[save])
    train(run)
    assert save.steps == [3, 4, 6, 8, 9, 12]  # evaluations at 4, 8, 12; nothing twice


def test_last_is_saved_every_some_minutes(make_run, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("object_centric_bench.learn.save.time.monotonic", lambda: now[0])

    class Clock:
        def before_step(self, run):
            now[0] += 60.0

    save = Watched(every_minutes=2.5)
    train(make_run(callbacks=[save, Clock()], eval_every=100))
    assert save.steps == [3, 6, 9, 12]


def test_a_clock_that_goes_backwards_saves_later_and_nothing_else(make_run, monkeypatch):
    now = [1e6]
    monkeypatch.setattr("object_centric_bench.learn.save.time.monotonic", lambda: now[0])

    class Clock:
        def before_step(self, run):
            now[0] -= 60.0

    save = Watched(every_minutes=1.0)
    train(make_run(callbacks=[save, Clock()]))
    assert save.steps == [4, 8, 12]


@pytest.mark.parametrize("option", ["every_minutes", "every_steps"])
def test_never_is_none_and_not_zero(option):
    with pytest.raises(ValueError, match=f"{option} must be above 0, got 0"):
        Save("error", False, **{option: 0})


def test_nothing_is_saved_while_the_gradient_is_not_finite(make_run):
    save = Watched(every_steps=1)
    run = make_run(callbacks=[save], eval_every=100)
    save.before_train(run)
    run.step, run.grad_norm = 3, torch.tensor(float("nan"))
    save.after_step(run)
    save.after_train(run)
    assert save.steps == []
    run.grad_norm = torch.tensor(1.0)
    save.after_step(run)
    assert save.steps == [3]
