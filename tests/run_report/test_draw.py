"""The report of a real run: images and videos, with the data and without."""

import json
import sys

import pytest

from object_centric_bench import config, experiment
from object_centric_bench.datum import moving_shapes, shapes
from object_centric_bench.experiment import Settings
from object_centric_bench.learn import checkpoint
from object_centric_bench.learn.report import evaluate_and_report
from object_centric_bench.registry import ConfigError
from object_centric_bench.run_report.draw import write_report

from ..conftest import REPOSITORY
from ..terminal import Terminal


def scored_run(tmp_path, name):
    cfg = config.load(REPOSITORY / "config-demo" / f"{name}.py", ["precision=no", "cache_feature=False"])
    cfg = experiment.complete(cfg)
    cfg["dataset"]["eval_batch_size"] = 2
    folder = tmp_path / "save" / name / "42"
    folder.mkdir(parents=True)
    run = experiment.build_run(cfg, Settings(tmp_path, tmp_path / "save", device="cpu"), None)
    checkpoint.save(folder / "best", run.network, {"config": cfg, "step": 1})
    evaluate_and_report(run, folder / "eval", 0, {})
    (folder / "config.json").write_text(json.dumps(cfg))
    facts = {"config": str(REPOSITORY / "config-demo" / f"{name}.py"), "data_dir": str(tmp_path), "seed": 42}
    (folder / "env.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, convert, cells, last",
    [("dinosaur-shapes", shapes, 10, "slot 6"), ("videosaur-shapes", moving_shapes, 18, "found ")],
    ids=["images", "videos"],
)
def test_best_middle_and_worst_samples_are_drawn(tmp_path, monkeypatch, name, convert, cells, last):
    convert.convert(tmp_path / convert.__name__.rsplit(".")[-1], num_train=2, num_val=3, size=64)
    folder = scored_run(tmp_path, name)
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    text = write_report(folder, device="cpu").read_text()
    for group in ("best", "middle", "worst"):
        assert f"<h3>{group}</h3>" in text
    assert text.count('<img src="data:image/jpeg') == 3 * cells
    assert "report:" in stream.getvalue() and "/3 [" in stream.getvalue()  # how often it is drawn is up to the clock
    assert last in text and "mBO " in text
    assert "dataset.eval.eval_batch_size" not in text
    assert "lines differ against" in text and "precision = &#x27;no&#x27;" in text


@pytest.mark.slow
def test_without_the_data_the_report_says_why_it_has_no_pictures(tmp_path):
    shapes.convert(tmp_path / "shapes", num_train=2, num_val=3, size=64)
    folder = scored_run(tmp_path, "dinosaur-shapes")
    (tmp_path / "shapes").rename(tmp_path / "elsewhere")
    text = write_report(folder, device="cpu", parent=str(REPOSITORY / "config-demo" / "spot-shapes.py")).read_text()
    assert "pictures could not be drawn" in text and "val.lmdb" in text and "<img" not in text
    assert "+ model.type = &#x27;DINOSAUR&#x27;" in text
    with pytest.raises(ConfigError, match="no run folder"):
        write_report(tmp_path)
