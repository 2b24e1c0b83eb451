"""Tables over seeds: mean, deviation, what is bold, three formats, the authors' numbers."""

import csv
import json
import statistics

import pytest

from object_centric_bench.grid import published, scores
from object_centric_bench.grid.plan import Job
from object_centric_bench.registry import ConfigError

from ..conftest import REPOSITORY

SCORES = {
    "dinosaur_r-coco": {42: 0.25, 43: 0.35},
    "vqdino_mlp_r-coco": {42: 0.301, 43: 0.303},
    "dinosaur_r-voc": {42: 0.4},
}


@pytest.fixture
def jobs(tmp_path):
    made = []
    for name, by_seed in SCORES.items():
        for seed, score in by_seed.items():
            job = Job(tmp_path / f"{name}.py", seed)
            folder = job.folder(tmp_path) / "eval"
            folder.mkdir(parents=True)
            config = {"dataset": {"eval": {"file": f"{name.rsplit('-')[-1]}/val.lmdb"}}}
            facts = {"config": config, "scores": {"ari": score, "mbo": score + 0.1, "recon": 3.0}, "images": []}
            (folder / "eval.json").write_text(json.dumps(facts))
            made.append(job)
    return [*made, Job(tmp_path / "slate_r_vqvae-coco.py", 42), Job(tmp_path / "vqdino.py", 42, scored=False)]


def test_rows_are_methods_columns_datasets_and_scores(jobs, tmp_path):
    table = scores.table(jobs, tmp_path)
    assert list(table.rows) == ["dinosaur_r", "vqdino_mlp_r"]
    assert [dataset for dataset, _ in table.columns] == ["coco"] * 4 + ["voc"] * 4
    cell = table.rows["dinosaur_r"]["coco", "ari"]
    assert (cell.mean, cell.count) == (pytest.approx(30.0), 2)
    assert cell.deviation == pytest.approx(statistics.stdev([25, 35]))
    assert table.rows["dinosaur_r"]["voc", "ari"].deviation is None
    assert any("slate_r_vqvae-coco, seed 42: no scores yet" in note for note in table.notes)


def test_the_best_of_a_column_is_bold_and_what_prints_alike_ties(jobs, tmp_path):
    lines = scores.markdown(scores.table(jobs, tmp_path)).splitlines()
    assert lines[0].startswith("| method | coco ARI | coco ARI_fg |")
    assert lines[2] == "| dinosaur_r | 30.0 ± 7.1 | - | 40.0 ± 7.1 | - | 40.0 | - | 50.0 | - |"
    assert lines[3] == "| vqdino_mlp_r | **30.2 ± 0.1** | - | **40.2 ± 0.1** | - | - | - | - | - |"
    equal = {"a": {("coco", "ari"): scores.Cell(30.04, 1.0, 3)}, "b": {("coco", "ari"): scores.Cell(29.96, 2.0, 3)}}
    text = scores.markdown(scores.Table([("coco", "ari")], equal, []))
    assert text.count("**30.0") == 2


def test_latex_and_csv_hold_the_same(jobs, tmp_path):
    table = scores.table(jobs, tmp_path)
    text = scores.latex(table)
    assert r"vqdino\_mlp\_r & \textbf{30.2$\pm$0.1} & -- &" in text
    assert text.count(r"\multicolumn{4}{c}") == 2 and r"\cmidrule(lr){6-9}" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.count("&") for line in body} == {8}
    rows = list(csv.DictReader(scores.comma_separated(table).splitlines()))
    means = {(row["method"], row["dataset"], row["metric"]): float(row["mean"]) for row in rows}
    assert means["vqdino_mlp_r", "coco", "mbo"] == pytest.approx(40.2)
    assert len(rows) == 6


def test_published_scores_stand_beside_ours_with_their_source(jobs, tmp_path):
    table = scores.table(jobs, tmp_path, published=True)
    assert list(table.rows) == ["dinosaur_r", "dinosaur_r, published", "vqdino_mlp_r", "vqdino_mlp_r, published"]
    text = scores.markdown(table)
    assert "| dinosaur_r, published | 18.2 | **37.0** | 28.3 | 26.9 | 21.5 | 36.2 | 40.6 | 39.7 |" in text
    assert "result tables of VVO" in text and "SmoothSA" not in text and "none are known" not in text
    job = Job(tmp_path / "spot_r-coco.py", 42)
    (job.folder(tmp_path) / "eval").mkdir(parents=True)
    file = jobs[0].folder(tmp_path) / "eval" / "eval.json"
    (job.folder(tmp_path) / "eval" / "eval.json").write_text(file.read_text())
    text = scores.markdown(scores.table([job], tmp_path, published=True))
    assert "| spot_r, published | 23.7 | 40.4 | 30.9 | 29.3 |" in text
    assert "SmoothSA" in text and "result tables of VVO" not in text


def test_where_nothing_was_published_this_is_said(jobs, tmp_path):
    folder = tmp_path / "dinosaur-shapes" / "42" / "eval"
    folder.mkdir(parents=True)
    (folder / "eval.json").write_text((jobs[0].folder(tmp_path) / "eval" / "eval.json").read_text())
    text = scores.markdown(scores.table([Job(tmp_path / "dinosaur-shapes.py", 42)], tmp_path, published=True))
    assert "Published: none are known here" in text


def test_every_published_score_has_its_config():
    configs = {path.stem for path in REPOSITORY.glob("config-*/*.py")}
    assert published.SCORES.keys() <= configs
    assert all(len(row) == 4 and all(0 < score < 100 for score in row) for row in published.SCORES.values())


def test_a_damaged_result_is_named(jobs, tmp_path):
    file = jobs[0].folder(tmp_path) / "eval" / "eval.json"
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"eval\.json is no valid JSON"):
        scores.table(jobs, tmp_path)
