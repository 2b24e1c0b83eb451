"""Reports and pictures: what is written is what was scored and seen."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from object_centric_bench import picture
from object_centric_bench.learn.report import Recorder, evaluate_and_report, some_frames, table


def test_report_holds_a_row_per_image_and_its_mean(make_run, tmp_path, capsys):
    run = make_run()
    scores = evaluate_and_report(run, tmp_path / "out", viz=0, facts={"checkpoint": "here"})
    written = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert written["checkpoint"] == "here"
    assert written["scores"] == scores
    assert [row["id"] for row in written["images"]] == [f"picture-{i}" for i in range(100, 104)]
    values = [row["above"] for row in written["images"]]
    assert values[1] is None  # excluded, not NaN
    assert values[3] is None
    assert scores["above"] == (values[0] + values[2]) / 2
    assert written["excluded"]["above"] == 2
    shown = capsys.readouterr().out
    assert f"{'above':<16}{scores['above']:>10.4f}{2:>10}{2:>10}" in shown
    assert not (tmp_path / "out" / "pictures.png").exists()


def test_table_lists_scores_in_their_usual_order():
    lines = table({"recon": 0.5, "miou": 0.3, "ari": 0.1}, {"ari": 1}, 4).splitlines()
    assert [line.split()[0] for line in lines] == ["score", "ARI", "mIoU", "recon"]
    assert lines[1].split() == ["ARI", "0.1000", "3", "1"]


@pytest.mark.parametrize(("length", "frames"), [(24, [0, 11, 23]), (3, [0, 1, 2]), (2, [0, 1]), (1, [0])])
def test_three_frames_of_a_video_are_shown(length, frames):
    video = torch.arange(2 * length).view(2, length, 1)
    assert some_frames(video).flatten().tolist() == [*frames, *(length + frame for frame in frames)]


def test_videos_are_drawn_up_to_the_wanted_number():
    recorder = Recorder(3, str)
    for index in (0, 2, 4):  # batches of two videos
        video = torch.zeros(2, 5, 3, 8, 8, dtype=torch.uint8) + torch.arange(5)[:, None, None, None]
        segment = torch.zeros(2, 5, 8, 8, dtype=torch.uint8)
        recorder(
            SimpleNamespace(
                raw={"video": video.to(torch.uint8)},
                batch={"index": torch.tensor([index, index + 1]), "segment": segment},
                output={"segment": segment, "segment_mask": torch.rand(2, 5, 4, 2, 2)},
                scores={"mbo": (torch.ones(2), torch.tensor([True, False]))},
                batch_transforms=[],
                inputs=("video",),
                cfg={"dataset": {"eval": {"keys": ["video", "segment"]}}},
            )
        )
    assert recorder.unit == "videos"
    assert [row["mbo"] for row in recorder.images] == [1.0, None] * 3
    assert len(recorder.pictures) == 3 * 3
    assert [int(row[0].max()) for row in recorder.pictures] == [0, 2, 4] * 3
    assert {len(row) for row in recorder.pictures} == {3 + 4}
    assert table({"mbo": 1.0}, {}, 6, recorder.unit).splitlines()[0].split() == ["score", "mean", "videos", "excluded"]


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_palette_gives_as_many_different_colours_as_asked(count):
    colours = picture.palette(count)
    assert colours.shape == (count, 3)
    assert len({tuple(colour) for colour in colours}) == count


def test_rows_show_image_truth_prediction_and_each_slot():
    image = torch.full((2, 3, 4, 6), 200, dtype=torch.uint8)
    target = torch.zeros(2, 4, 6, dtype=torch.int32)
    target[:, :2] = 1
    mask = torch.zeros(2, 3, 2, 3)
    mask[:, 2] = 1.0
    grid = picture.rows(image, target, target.to(torch.uint8), mask)
    assert [len(row) for row in grid] == [6, 6]
    assert all(cell.shape == (4, 6, 3) and cell.dtype == np.uint8 for row in grid for cell in row)
    assert (grid[0][0] == 200).all()
    assert np.array_equal(grid[0][1], grid[0][2])
    assert not np.array_equal(grid[0][1][0], grid[0][1][3])  # object and background have colours of their own
    assert (grid[0][3] == 255).all()  # a slot that holds nothing is white
    assert (grid[0][5] == 200).all()  # the slot that holds all shows the image


def test_grid_is_saved_with_gaps_and_its_pictures_unchanged(tmp_path):
    cells = [[np.full((3, 5, 3), 10 * (r * 2 + c), np.uint8) for c in range(2)] for r in range(2)]
    picture.save_grid(tmp_path / "grid.png", cells)
    saved = np.array(Image.open(tmp_path / "grid.png"))
    assert saved.shape == (2 * 3 + picture.GAP, 2 * 5 + picture.GAP, 3)
    assert (saved[:3, :5] == 0).all()
    assert (saved[-3:, -5:] == 30).all()
    assert (saved[3 : 3 + picture.GAP] == 255).all()
