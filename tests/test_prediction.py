"""A trained model on a user's own pictures and videos: in Python, and by `eval.py --predict`."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as coco_mask
from safetensors.torch import load_file

import object_centric_bench
from object_centric_bench import config, experiment, prediction
from object_centric_bench.datum import shapes
from object_centric_bench.datum.record import DataError
from object_centric_bench.experiment import Settings
from object_centric_bench.learn import checkpoint
from object_centric_bench.learn.callback import mask_to_segment
from object_centric_bench.learn.loop import evaluate
from object_centric_bench.predict_files import boxes_of_videos, predict_files, relative_names
from object_centric_bench.registry import ConfigError

from .conftest import REPOSITORY
from .terminal import Terminal
from .test_published_runs import load as published_config

DEMO = REPOSITORY / "config-demo"


def save_run(folder, cfg, data_dir):
    run = experiment.build_run(cfg, Settings(data_dir, folder, device="cpu"), None)
    folder.mkdir(parents=True)
    checkpoint.save(folder / "best", run.model, {"config": cfg, "step": 1})
    return run


@pytest.fixture(scope="module")
def image_run(tmp_path_factory):
    """DINOSAUR with random slots and a frozen real backbone, and the dataset it was made for."""
    data = tmp_path_factory.mktemp("data")
    shapes.convert(data / "shapes", num_train=2, num_val=3, size=128)
    cfg = experiment.complete(config.load(DEMO / "dinosaur-shapes.py", ["precision=no", "cache_feature=False"]))
    cfg["dataset"]["eval_batch_size"] = 2
    return save_run(data / "save" / "dinosaur", cfg, data), data


@pytest.fixture(scope="module")
def video_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    cfg = experiment.complete(config.load(DEMO / "videosaur-shapes.py", ["precision=no", "cache_feature=False"]))
    torch.manual_seed(0)
    built = prediction.Predictor(cfg, "cpu")
    checkpoint.save(folder / "best", built.model, {"config": cfg, "step": 1})
    return folder


def test_loading_tells_of_no_random_weights(video_model, caplog):
    with caplog.at_level(logging.WARNING, logger="object_centric_bench.model"):
        object_centric_bench.load(video_model, device="cpu")
        assert logging.getLogger("object_centric_bench.model").level == logging.WARNING  # as it was
    assert "random" not in caplog.text


def pictures(*sizes):
    rng = np.random.default_rng(1)
    return [np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((h // 4, w // 4, 1))).astype(np.uint8) for h, w in sizes]


def test_pictures_of_the_model_s_size_get_what_the_evaluation_gives_them(image_run):
    run, data = image_run
    expected, shown = [], []

    def observe(run):
        expected.extend(run.output["segment"])
        shown.extend(run.raw["image"])

    evaluate(run, observe)
    model = object_centric_bench.load(data / "save" / "dinosaur", device="cpu")
    slots, masks = model.predict(shown)
    assert slots.shape == (3, 7, 64)
    assert all(torch.equal(*pair) for pair in zip(masks, expected, strict=True))
    assert len({int(mask.max()) for mask in masks} | {int(mask.min()) for mask in masks}) > 1


def test_masks_have_the_picture_s_own_size_and_do_not_depend_on_its_neighbours(image_run, tmp_path):
    model = object_centric_bench.load(image_run[1] / "save" / "dinosaur", device="cpu")
    given = pictures((40, 60), (200, 120), (128, 128))
    slots, masks = model.predict(given)
    assert [tuple(mask.shape) for mask in masks] == [(40, 60), (200, 120), (128, 128)]
    Image.fromarray(given[1]).save(tmp_path / "a.png")
    alone = model.predict(tmp_path / "a.png")
    assert torch.equal(alone.masks[0], masks[1])
    torch.testing.assert_close(alone.slots[0], slots[1])
    with pytest.raises(ValueError, match=r"not torch\.float32 \(3, 4, 4\)"):
        model.predict(torch.zeros(3, 4, 4))


def test_the_largest_mask_slot_by_slot_is_that_of_all_at_once():
    mask = torch.rand(5, 16, 16).softmax(dim=0)
    mask[3] = mask[1]  # ties go to the first
    assert torch.equal(prediction.largest(mask, (37, 50)), mask_to_segment(mask[None], [37, 50])[0])
    assert F.one_hot(prediction.largest(mask, (37, 50)).long(), 5).sum(dim=(0, 1))[3] == 0


def test_videos_keep_their_slots_and_pictures_are_videos_of_one_frame(video_model):
    model = object_centric_bench.load(video_model, device="cpu")
    frames = pictures(*[(64, 96)] * 4)
    slots, masks = model.predict_video(iter(frames))
    assert slots.shape == (4, 6, 64) and [mask.shape for mask in masks] == [(64, 96)] * 4
    first = model.predict_video(frames[:1])
    torch.testing.assert_close(first.slots[0], slots[0], rtol=1e-4, atol=1e-5)
    assert model.predict(frames[0]).masks[0].shape == (64, 96)
    with pytest.raises(ConfigError, match="does not start from boxes"):
        model.predict_video(frames, torch.rand(2, 4))
    with pytest.raises(ValueError, match="all have one size"):
        model.predict_video(pictures((8, 8), (8, 12)))


@pytest.mark.slow
def test_conditional_methods_need_boxes_of_the_first_frame():
    model = prediction.Predictor(published_config("config-vqdino/vqdino_tfdt_c-movi_d.py"), "cpu")
    frames = pictures((64, 64), (64, 64))
    with pytest.raises(ConfigError, match="1 to 21 of them"):
        model.predict_video(frames)
    with pytest.raises(ConfigError, match="predict_video"):
        model.predict(frames)
    slots, masks = model.predict_video(frames, torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.4, 0.4, 0.9, 0.8]]))
    assert slots.shape[:2] == (2, 21) and len(masks) == 2


class Boxed:
    """What `boxes_of_videos` asks of a method that starts from boxes."""

    num_boxes = 3


def test_boxes_belong_to_videos_by_name_or_path(tmp_path):
    a, b = tmp_path / "x" / "clip.mp4", tmp_path / "y" / "clip.mp4"
    names = {a: "x/clip.mp4", b: "y/clip.mp4"}
    file = tmp_path / "boxes.json"
    file.write_text('{"clip.mp4": [[1, 2, 3, 4]], "y/clip.mp4": [[5, 6, 7, 8], [0, 0, 9, 9]]}')
    found = boxes_of_videos(Boxed, [a, b], names, file)
    assert found[a].tolist() == [[1, 2, 3, 4]] and found[b].tolist() == [[5, 6, 7, 8], [0, 0, 9, 9]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "an object is wanted"),
        ('{"clip.mp4": "left"}', "'clip.mp4' wants a list of boxes"),
        ('{"clip.mp4": [1, 2, 3, 4]}', "'clip.mp4' wants a list of boxes"),
        ('{"clip.mp4": [[1, 2, 3, 4], [5]]}', "'clip.mp4' wants a list of boxes"),
        ('{"clap.mp4": [[1, 2, 3, 4]]}', "'clap.mp4', which is none of the videos: clip.mp4"),
    ],
)
def test_wrong_boxes_are_named(tmp_path, text, message):
    file = tmp_path / "boxes.json"
    file.write_text(text)
    clip = tmp_path / "clip.mp4"
    with pytest.raises(DataError, match=message):
        boxes_of_videos(Boxed, [clip], {clip: "clip.mp4"}, file)


def test_whether_a_method_starts_from_boxes_is_told_before_anything_runs(image_run, tmp_path):
    model = object_centric_bench.load(image_run[1] / "save" / "dinosaur", device="cpu")
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(ConfigError, match="--boxes: this method does not start from boxes; leave it out"):
        predict_files(model, [str(tmp_path)], tmp_path / "out", tmp_path / "boxes.json", 3)
    with pytest.raises(ConfigError, match="give by --boxes 1 to 3 of the objects"):
        boxes_of_videos(Boxed, [tmp_path / "clip.mp4"], {}, None)


def test_progress_within_a_long_video_is_shown(image_run, tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in pictures(*[(48, 64)] * 4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    model = object_centric_bench.load(image_run[1] / "save" / "dinosaur", device="cpu")
    assert predict_files(model, [str(tmp_path / "clip.mp4")], tmp_path / "out", None, 3) == 1
    assert "read clip.mp4:" in stream.getvalue() and "write clip.mp4:" in stream.getvalue()
    assert "/3 [" in stream.getvalue() and "/4 [" not in stream.getvalue()


def test_a_file_named_twice_counts_once_and_a_link_keeps_its_name(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.png").touch()
    (tmp_path / "a" / "link.png").symlink_to(tmp_path / "a" / "one.png")
    monkeypatch.chdir(tmp_path)
    paths = [Path("a/link.png"), Path("a/one.png"), tmp_path / "a" / "one.png"]
    assert sorted(relative_names(paths).values()) == ["link.png", "one.png"]


def test_a_first_stage_finds_no_objects():
    with pytest.raises(ConfigError, match="first stage"):
        prediction.Predictor(experiment.complete(config.load(DEMO / "vqshapes.py")), "cpu")


@pytest.mark.slow
def test_the_command_writes_masks_overlays_annotations_and_slots(image_run, tmp_path):
    av = pytest.importorskip("av")
    source, out = tmp_path / "mine", tmp_path / "out"
    (source / "sub").mkdir(parents=True)
    for name, picture in zip(("a.png", "sub/a.png", "wide.jpg"), pictures((40, 60), (60, 40), (80, 2000)), strict=True):
        Image.fromarray(picture).save(source / name)
    (source / "broken.jpg").write_bytes(b"\xff\xd8 not a JPEG")
    with av.open(str(source / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in pictures(*[(48, 64)] * 5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    arguments = ["--ckpt_file", image_run[1] / "save" / "dinosaur", "--predict", source, "--out", out]
    command = [sys.executable, "eval.py", *map(str, arguments), "--max_frames", "3", "--device", "cpu"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 files done, 1 left out" in done.stdout
    assert "broken.jpg cannot be read as a picture" in done.stderr and "only its first 3 frames" in done.stderr

    written = json.loads((out / "predictions.json").read_text())
    sizes = {image["file_name"]: (image["height"], image["width"]) for image in written["images"]}
    assert sizes == {
        "a.png": (40, 60), "sub/a.png": (60, 40), "wide.jpg": (80, 2000),
        **{f"clip.mp4/{number:06}": (48, 64) for number in range(3)},
    }  # fmt: skip
    for image in written["images"]:
        mask = np.array(Image.open(out / "masks" / f"{image['file_name']}.png"))
        parts = [part for part in written["annotations"] if part["image_id"] == image["id"]]
        assert sum(part["area"] for part in parts) == mask.size
        for part in parts:
            assert np.array_equal(coco_mask.decode(part["segmentation"]), mask == part["slot"])
    slots = load_file(out / "slots.safetensors")
    assert {name: tuple(value.shape) for name, value in slots.items()} == {
        "a.png": (7, 64), "sub/a.png": (7, 64), "wide.jpg": (7, 64), "clip.mp4": (3, 7, 64),
    }  # fmt: skip
    assert Image.open(out / "overlays" / "wide.jpg.png").size == (1600, 64)
    with av.open(str(out / "overlays" / "clip.mp4.mp4")) as container:
        assert len(list(container.decode(video=0))) == 3
    assert not list(out.rglob("*.tmp*"))
