"""`--profile`: what is measured adds up, nothing of the run changes, and the trace can be opened."""

import json
import os

import pytest
import torch

import train
from object_centric_bench import config, experiment, profiling
from object_centric_bench.datum import shapes
from object_centric_bench.datum.timing import instrument
from object_centric_bench.experiment import Settings
from object_centric_bench.learn.loop import train as train_run
from object_centric_bench.learn.profile import FORWARD, PARTS, REST, Profile, profile
from object_centric_bench.learn.spans import Spans
from object_centric_bench.registry import ConfigError

from .conftest import REPOSITORY

CONFIG = REPOSITORY / "config-demo" / "dinosaur-shapes.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    shapes.convert(folder / "shapes", num_train=12, num_val=4, size=64)
    return folder


def small(*overrides):
    changes = ["batch_size=3", "precision=no", "cache_feature=False", "total_steps=40", *overrides]
    return experiment.complete(config.load(CONFIG, changes))


def build(data, folder, cfg, watch=instrument):
    cfg = cfg | {"callback": [each for each in cfg["callback"] if each["type"] != "Save"], "eval_every": 1000}
    run = experiment.build_run(cfg, Settings(data, folder, seed=1, device="cpu"), None, watch=watch)
    run.total_steps = 1000
    return run


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_are_all_there_and_add_up_to_the_step(data, tmp_path, workers):
    run = build(data, tmp_path, small(f"dataset.num_workers={workers}"))
    found = profile(run, 6)
    modules = {f"{FORWARD}{name}" for name in ("backbone", "projection", "initializer", "slot_attention", "decoder")}
    expected = {
        "waiting for data",
        "copy",
        "batch transforms",
        *modules,
        f"{FORWARD}between parts",
        "losses",
        "backward",
    }
    expected |= {"clip gradients", "optimizer", "metrics", "logging", "callbacks", REST}
    assert {*found.rows} == expected | ({*PARTS} if workers == 0 else set())
    assert sum(found.rows.values()) == pytest.approx(found.step)
    assert abs(found.rows[REST]) < 0.3 * found.step
    assert all(found.rows[name] > 0 for name in modules | {"backward", "optimizer", "metrics", "losses"})
    assert all(found.data[part] > 0 for part in PARTS)
    assert found.steps == 6 and found.workers == workers
    assert found.spread[0] <= found.spread[1]


def test_profiling_changes_no_number(data, tmp_path):
    losses = []

    class Keep:
        def after_step(self, run):
            losses[-1].append({name: float(value) for name, value in run.losses.items()})
            run.stop = run.step == 8

    weights = []
    for watched in (False, True):
        run = build(data, tmp_path, small(), instrument if watched else lambda dataset: dataset)
        losses.append([])
        run.callbacks.append(Keep())
        if watched:
            profile(run, 3)
        else:
            train_run(run)
        weights.append({name: tensor.clone() for name, tensor in run.network.state_dict().items()})
    assert losses[0] == losses[1] and len(losses[0]) == 8
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_everything_is_as_before_afterwards(data, tmp_path):
    run = build(data, tmp_path, small())
    before = [{**vars(module)}.get("forward") for module in run.network.modules()]
    profile(run, 2)
    assert [vars(module).get("forward") for module in run.network.modules()] == before
    assert "step" not in vars(run.optimizer) and "backward" not in vars(run.accelerator)


def test_the_command_prints_a_table_and_a_verdict_and_writes_a_trace_beside_the_run(data, tmp_path, capsys):
    folder = tmp_path / "save" / "dinosaur-shapes" / "42"
    folder.mkdir(parents=True)
    (folder / "something").write_text("of a real run")
    words = [
        "--cfg_file",
        CONFIG,
        "--data_dir",
        data,
        "--save_dir",
        tmp_path / "save",
        "--profile",
        3,
        "--device",
        "cpu",
    ]
    changes = ["batch_size=3", "cache_feature=False", "precision=no", "dataset.num_workers=1"]
    assert train.main([*map(str, words), *changes]) == 0
    printed = capsys.readouterr().out
    assert "part of a step" in printed and "bottleneck: " in printed and "1 worker makes the batches" in printed
    assert [path.name for path in folder.iterdir()] == ["something"]
    own = folder.with_name("42-profile")
    assert sorted(path.name for path in own.iterdir()) == ["profile.txt", "trace.json"]
    assert (own / "profile.txt").read_text().strip() in printed
    events = json.loads((own / "trace.json").read_text())["traceEvents"]
    spans = [event for event in events if event.get("ph") == "X" and event.get("cat") == "part"]
    assert {span["name"] for span in spans} >= {
        "read",
        "decode",
        "transform",
        "collate",
        "backward",
        "waiting for data",
    }
    assert len({span["pid"] for span in spans}) == 2, "the training process and its worker"
    operators = [event for event in events if event.get("cat") == "cpu_op"]
    assert any("aten::" in event["name"] for event in operators)
    # the two clocks agree: PyTorch saw backward when we did
    ours = sorted(span["ts"] for span in spans if span["name"] == "backward")
    theirs = sorted(
        event["ts"] for event in events if event["name"] == "backward" and event.get("cat") == "user_annotation"
    )
    assert len(ours) == len(theirs) == 3
    assert all(abs(a - b) < 20_000 for a, b in zip(ours, theirs, strict=True)), "microseconds"


def test_a_number_that_cannot_be_is_one_message(data, tmp_path):
    with pytest.raises(ConfigError, match="at least one step"):
        profiling.profile_run(small(), str(CONFIG), Settings(data, tmp_path, device="cpu"), 0)


def test_time_within_another_counts_once():
    spans = Spans(torch.device("cpu"))
    with spans("off"):
        pass
    spans.on = True
    with spans("outer"), spans("inner"), spans("outer"):
        pass
    whole = next(span for span in spans.spans[::-1] if span.name == "outer").seconds
    assert set(spans.exclusive) == {"outer", "inner"}
    assert sum(spans.exclusive.values()) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(
    ("rows", "workers", "overrides", "expected"),
    [
        ({"decode": 0.08, "backward": 0.02}, 0, [], "dataset.num_workers="),
        ({"waiting for data": 0.08, "backward": 0.02}, 1, [], "dataset.num_workers="),
        ({"waiting for data": 0.08, "backward": 0.02}, 1000, [], "cache_feature=True"),
        ({f"{FORWARD}backbone": 0.08, "backward": 0.02}, 0, [], "cache_feature=True"),
        ({f"{FORWARD}decoder": 0.03, "backward": 0.08}, 0, [], "forward and backward pass of what is trained"),
        ({"metrics": 0.08, "backward": 0.02}, 0, [], "metric_every=1000"),
        ({"logging": 0.08, "backward": 0.02}, 0, [], "callback.N.every"),
        ({"optimizer": 0.08, "backward": 0.02}, 0, [], "larger batch_size"),
    ],
)
def test_the_verdict_names_the_bottleneck_and_the_setting(data, tmp_path, rows, workers, overrides, expected):
    run = build(data, tmp_path, small(*overrides))
    found = Profile(5, 0.1, (0.1, 0.1), rows, dict.fromkeys(PARTS, 0.01), workers)
    text = profiling.verdict(found, run)
    assert text.startswith("bottleneck: ") and expected in text
    assert max(rows, key=rows.get) in text
    assert os.cpu_count() is None or "num_workers=0" not in text


def test_decoding_that_no_cache_avoids_leads_to_decoded_pictures(data, tmp_path, monkeypatch):
    run = build(data, tmp_path, small())
    monkeypatch.setattr(profiling, "cacheable", lambda run: False)  # as with augmented pictures
    rows = {"waiting for data": 0.08, "backward": 0.02}
    for slowest, wanted in (("decode", True), ("transform", False)):
        found = Profile(5, 0.1, (0.1, 0.1), rows, dict.fromkeys(PARTS, 0.01) | {slowest: 0.5}, 1000)
        assert ("--pixels" in profiling.verdict(found, run)) == wanted
