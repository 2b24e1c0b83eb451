"""What the command lines decide: what to build upon, what to leave in peace."""

from argparse import Namespace

import pytest
from torch import nn

from object_centric_bench import job, training
from object_centric_bench.experiment import Settings
from object_centric_bench.interruption import Interruption
from object_centric_bench.learn import checkpoint
from object_centric_bench.registry import ConfigError

PRETRAIN = {"config": "stage1.py", "knobs": {"resolution": 64}, "modules": ["tokenizer"]}


def pictures(size):
    return {"eval": {"transforms": [{"type": "CenterCrop"}, {"type": "Resize", "size": [size, size]}]}}


CFG = {"pretrain": PRETRAIN, "dataset": pictures(64)}


@pytest.mark.parametrize(("step", "finished"), [(5, False), (10, True)])
def test_stage_two_never_starts_from_an_unfinished_stage_one(tmp_path, step, finished):
    settings = Settings(tmp_path, tmp_path / "save", seed=3)
    options = Namespace(ckpt_file=None, cfg_file="configs/stage2.py", with_pretrain=False)
    folder = tmp_path / "save" / "stage1" / "3"
    folder.mkdir(parents=True)
    for name in ("best", "last"):
        checkpoint.save(
            folder / name, nn.Linear(1, 1), {"step": step, "config": {"total_steps": 10, "dataset": pictures(64)}}
        )
    if finished:
        assert job.find_pretrained(CFG, settings, options, Interruption()) == folder / "best" / checkpoint.WEIGHTS
        return
    with pytest.raises(ConfigError, match=r"ended at step 5 of 10") as caught:
        job.find_pretrained(CFG, settings, options, Interruption())
    assert "--cfg_file configs/stage1.py" in str(caught.value)
    assert "--seed 3 resolution=64" in str(caught.value)


def test_a_stage_one_killed_while_saving_or_before_its_last_evaluation_is_unfinished(tmp_path):
    info = {"step": 10, "evaluated": 10, "config": {"total_steps": 10}}
    checkpoint.save(tmp_path / "best", nn.Linear(1, 1), info)
    assert job.unfinished(tmp_path) is None  # put there by hand
    checkpoint.save(tmp_path / "last", nn.Linear(1, 1), info | {"step": 5})
    (tmp_path / "last").rename(tmp_path / "last.old")  # between two renamings
    assert "ended at step 5 of 10" in job.unfinished(tmp_path)
    checkpoint.save(tmp_path / "last", nn.Linear(1, 1), info | {"evaluated": 5})
    assert "ended at step 10 of 10" in job.unfinished(tmp_path)
    checkpoint.save(tmp_path / "last", nn.Linear(1, 1), info)
    assert job.unfinished(tmp_path) is None


def test_stage_two_refuses_a_stage_one_of_another_resolution(tmp_path):
    settings = Settings(tmp_path, tmp_path / "save", seed=3)
    options = Namespace(ckpt_file=None, cfg_file="configs/stage2.py", with_pretrain=True)
    folder = tmp_path / "save" / "stage1" / "3"
    folder.mkdir(parents=True)
    for name in ("best", "last"):
        info = {"step": 10, "config": {"total_steps": 10, "dataset": pictures(128)}}
        checkpoint.save(folder / name, nn.Linear(1, 1), info)
    with pytest.raises(
        ConfigError, match=r"was trained on pictures of \[128, 128\] pixels, this config has \[64, 64\]"
    ):
        job.find_pretrained(CFG, settings, options, Interruption())


def test_the_parts_of_a_checkpoint_look_for_no_pretrained_weights():
    cfg = {"a": {"pretrained": True, "weights": "x"}, "b": [{"pretrained": True}], "c": {"pretrained": False}}
    expected = {"pretrained": False, "weights": None}
    assert job.without_pretrained(cfg) == {"a": expected, "b": [expected], "c": {"pretrained": False}}


def test_an_earlier_run_is_moved_aside_and_nothing_of_it_lost(tmp_path):
    folder = tmp_path / "42"
    for text in ("first", "second"):  # runs that logged but never saved a checkpoint
        folder.mkdir()
        (folder / "log.jsonl").write_text(text)
        training.set_aside(folder)
        assert not folder.exists()
    kept = [(tmp_path / f"42-earlier-{number}" / "log.jsonl").read_text() for number in (1, 2)]
    assert kept == ["first", "second"]
