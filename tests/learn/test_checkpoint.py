"""Checkpoints: whole at every moment, and clear about what does not fit."""

import os

import pytest
import torch
from torch import nn

from object_centric_bench.learn import checkpoint
from object_centric_bench.learn.checkpoint import CheckpointError


def model():
    torch.manual_seed(0)
    return nn.ModuleDict({"encoder": nn.Linear(2, 3), "decoder": nn.Linear(3, 1)})


def test_what_is_saved_is_read_back(tmp_path):
    state = {"step": 3, "generator": torch.get_rng_state(), "callbacks": [{"best": None}]}
    checkpoint.save(tmp_path / "last", model(), {"step": 3}, state)
    tensors, info = checkpoint.read(checkpoint.find(tmp_path))
    assert info == {"step": 3}
    assert all(torch.equal(tensors[name], value) for name, value in model().state_dict().items())
    again = checkpoint.read_state(tmp_path / "last")
    assert again["step"] == 3
    assert torch.equal(again["generator"], state["generator"])


def test_weights_may_be_read_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        checkpoint.save(tmp_path / "last", model(), {"step": 3}, {"step": 3})
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "last").iterdir()}
    assert modes == {checkpoint.WEIGHTS: 0o640, checkpoint.STATE: 0o640}


def test_a_run_folder_means_its_best_then_its_last(tmp_path):
    checkpoint.save(tmp_path / "last", model(), {"name": "last"})
    assert checkpoint.read(checkpoint.find(tmp_path))[1]["name"] == "last"
    checkpoint.save(tmp_path / "best", model(), {"name": "best"})
    assert checkpoint.read(checkpoint.find(tmp_path))[1]["name"] == "best"
    assert checkpoint.find(tmp_path / "last") == tmp_path / "last" / checkpoint.WEIGHTS


@pytest.mark.parametrize("failing", ["rename", "fsync", "save_tensors"])
def test_a_failure_while_saving_leaves_a_whole_checkpoint(tmp_path, monkeypatch, failing):
    checkpoint.save(tmp_path / "last", model(), {"step": 1}, {"step": 1})

    def fail(*arguments, **options):
        raise OSError("disk full")

    target = {"rename": type(tmp_path), "fsync": os, "save_tensors": checkpoint}[failing]
    with monkeypatch.context() as patch:
        patch.setattr(target, failing, fail)
        with pytest.raises(CheckpointError, match=r"cannot write .*last: disk full; \d+ MB are free there"):
            checkpoint.save(tmp_path / "last", model(), {"step": 2}, {"step": 2})
    assert checkpoint.read(checkpoint.find(tmp_path / "last"))[1] == {"step": 1}
    checkpoint.save(tmp_path / "last", model(), {"step": 3})
    assert checkpoint.read(checkpoint.find(tmp_path / "last"))[1] == {"step": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last"]


def test_between_the_two_renames_the_old_one_is_found(tmp_path):
    checkpoint.save(tmp_path / "last", model(), {"step": 1})
    (tmp_path / "last").rename(tmp_path / "last.old")
    assert checkpoint.read(checkpoint.find(tmp_path))[1] == {"step": 1}


def test_names_and_shapes_that_do_not_fit_are_all_listed_and_nothing_is_loaded():
    target = model()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    tensors = {"encoder.weight": torch.zeros(9, 9), "encoder.bias": torch.zeros(3), "extra.bias": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        checkpoint.assign(target, tensors, "file.pth")
    text = str(caught.value)
    assert "file.pth does not fit" in text
    assert "missing: decoder.weight (1, 3)" in text
    assert "unexpected: extra.bias (1,)" in text
    assert "shape: encoder.weight is (9, 9), the model has (3, 2)" in text
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_a_part_is_loaded_whole_and_alone():
    target = model()
    tensors = {name: torch.ones_like(value) for name, value in target.state_dict().items()}
    kept = target["decoder"].weight.clone()
    assert checkpoint.assign(target, tensors, "file", ["encoder"]) == ["encoder.bias", "encoder.weight"]
    assert torch.equal(target["encoder"].weight, torch.ones(3, 2))
    assert torch.equal(target["decoder"].weight, kept)
    with pytest.raises(CheckpointError, match="no such part: encode"):
        checkpoint.assign(target, tensors, "file", ["encode"])


def test_parts_are_taken_under_other_names():
    tensors = {"a.weight": torch.ones(1), "a.b.bias": torch.zeros(1), "ab.weight": torch.ones(2)}
    taken = checkpoint.take(tensors, {"whole": "", "c": "a"}, "here")
    assert taken.keys() == {"whole.a.weight", "whole.a.b.bias", "whole.ab.weight", "c.weight", "c.b.bias"}
    with pytest.raises(CheckpointError, match=r"here holds a, ab:\n  no part 'd', from which 'c' starts"):
        checkpoint.take(tensors, {"c": "d"}, "here")


class Evil:
    def __reduce__(self):
        return (os.system, ("true",))


def test_files_that_are_damaged_or_hold_code_are_refused(tmp_path):
    whole = tmp_path / "whole"
    checkpoint.save(whole, model(), {})
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((whole / checkpoint.WEIGHTS).read_bytes()[:100])
    text = tmp_path / "text.pth"
    text.write_text("hello")
    evil = tmp_path / "evil.pth"
    torch.save({"weight": Evil()}, evil)
    nested = tmp_path / "nested.pth"
    torch.save({"model": {"weight": torch.zeros(1)}}, nested)
    for file in (cut, text, evil, nested):
        with pytest.raises(CheckpointError, match=file.name):
            checkpoint.read(file)


@pytest.mark.parametrize(("name", "message"), [("nowhere", "no such file"), ("", "looked for model.safetensors")])
def test_a_missing_checkpoint_says_where_was_looked(tmp_path, name, message):
    with pytest.raises(CheckpointError, match=message):
        checkpoint.find(tmp_path / name)
