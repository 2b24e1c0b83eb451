"""The real command lines as a user runs them: subprocesses, small real input."""

import json
import os
import signal
import subprocess
import sys
import time

import lmdb
import numpy as np
import pytest
from PIL import Image

from object_centric_bench.learn import checkpoint

from .conftest import REPOSITORY

TINY = [  # what shrinks the full-size configs on COCO: a tiny ViT on 64x64 images, few codes
    "resolution=64",
    "pretrained=False",
    "batch_size=3",
    "dataset.num_workers=1",
    "model.backbone.name=vit_tiny_patch16_224",
    "model.backbone.resolution=[64,64]",
    "model.tokenizer.encoder.input_dim=192",
    "model.tokenizer.quantizer.num_codes=32",
    "callback.1.every=5",
]
SMALL = {
    "vqdino": TINY,
    "tfd": [
        *TINY,
        "model.decoder.num_codes=32",
        "model.decoder.num_layers=1",
        "model.projection.dims=[192,64,256]",
        "metric_every=10",
    ],
}
VQDINO, TFD = "config-vqdino/vqdino-coco-c256.py", "config-vqdino/vqdino_tfd_r-coco.py"


def command(*arguments, cwd=REPOSITORY, **options):
    """Run one of the scripts; return the finished process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    full = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        full, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=600, **options
    )


def succeed(*arguments):
    done = command(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def fail(*arguments):
    """Run something that must end with exit code 2 and one message; return the message."""
    done = command(*arguments)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert "error:" in done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory, raw):
    """COCO, converted from the raw sample."""
    folder = tmp_path_factory.mktemp("data")
    succeed("convert.py", "coco", "--src_dir", raw / "coco", "--dst_dir", folder / "coco")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    """Both stages on COCO: the first in one go, the second stopped half-way and resumed."""
    save = tmp_path_factory.mktemp("save")
    common = ["--data-dir", data, "--save_dir", save, "--seed=3"]
    first = succeed("train.py", "--cfg-file", VQDINO, *common, *SMALL["vqdino"], "total_steps=20", "eval_every=10")
    # the schedule is that of 20 steps from the start; only the loop ends after 10
    interrupted = interrupt_after_checkpoint(save / "vqdino_tfd_r-coco" / "3", common)
    resumed = succeed("train.py", "--cfg_file", TFD, *common, *SMALL["tfd"], *STEPS, "--resume=must", "--viz", "2")
    return save, first, interrupted, resumed


STEPS = ["total_steps=20", "eval_every=5"]


def interrupt_after_checkpoint(folder, common):
    """Start stage 2 and press Ctrl-C once its first checkpoint is there."""
    full = [sys.executable, "train.py", "--cfg_file", TFD, *map(str, common), *SMALL["tfd"], *STEPS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        full, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while not (folder / "last").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def test_stage_one_writes_logs_checkpoints_and_a_description(runs):
    save, _, _, _ = runs
    folder = save / "vqdino-coco-c256" / "3"
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [(row["split"], row["step"]) for row in rows] == [
        ("train", 5), ("train", 10), ("eval", 10), ("train", 15), ("train", 20), ("eval", 20),
    ]  # fmt: skip
    assert rows[-1]["recon"] < rows[2]["recon"]
    assert list((folder / "tensorboard").iterdir())
    description = json.loads((folder / "env.json").read_text())
    assert description["packages"]["torch"]
    assert len(description["git_commit"].split("-")[0]) == 40
    assert json.loads((folder / "config.json").read_text())["total_steps"] == 20
    assert checkpoint.read(folder / "best" / checkpoint.WEIGHTS)[1]["step"] in (10, 20)


def test_an_interrupt_saves_and_says_how_to_resume(runs):
    _, _, (code, _, err), _ = runs
    assert code == 3, err
    assert "The same command continues." in err
    assert "Traceback" not in err


def test_stage_two_resumes_ends_with_a_table_and_pictures(runs):
    save, _, _, resumed = runs
    folder = save / "vqdino_tfd_r-coco" / "3"
    assert "resumed" in resumed.stdout
    for name in ("ARI", "ARI_fg", "mBO", "mIoU"):
        assert any(line.split()[:1] == [name] for line in resumed.stdout.splitlines()), resumed.stdout
    assert str(folder / "eval" / "pictures.png") in resumed.stdout
    steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines() if '"eval"' in line]
    assert steps == [5, 10, 15, 20]
    picture = np.array(Image.open(folder / "eval" / "pictures.png"))
    assert picture.shape == (2 * 64 + 2, 10 * 66 - 2, 3)  # two images; image, truth, prediction and 7 slots
    assert picture.std() > 10


def test_stage_two_starts_from_the_stage_one_of_its_seed(runs):
    save, _, _, _ = runs
    first, _ = checkpoint.read(checkpoint.find(save / "vqdino-coco-c256" / "3"))
    second, _ = checkpoint.read(checkpoint.find(save / "vqdino_tfd_r-coco" / "3"))
    shared = [name for name in second if name.startswith("tokenizer.")]
    assert shared
    assert all((first[name] == second[name]).all() for name in shared)


def test_evaluating_again_gives_the_scores_of_the_run(runs, data, tmp_path):
    save, _, _, _ = runs
    folder = save / "vqdino_tfd_r-coco" / "3"
    done = succeed("eval.py", "--ckpt-file", folder, "--data_dir", data, "--out", tmp_path, "--viz", 1)
    mine, theirs = (json.loads((path / "eval.json").read_text()) for path in (tmp_path, folder / "eval"))
    assert mine["scores"] == theirs["scores"]
    assert mine["checkpoint_sha256"] == theirs["checkpoint_sha256"]
    assert len(mine["images"]) == 4
    assert {row["id"] for row in mine["images"]} >= {"000000142238"}
    assert (tmp_path / "pictures.png").exists()
    assert "ARI_fg" in done.stdout
    again = ["eval.py", "--cfg_file", TFD, "--ckpt_file", folder / "last", "--data_dir", data, "--out", tmp_path]
    succeed(*again, *SMALL["tfd"])
    assert json.loads((tmp_path / "eval.json").read_text())["step"] == 20


def test_resuming_under_another_config_is_refused_with_the_difference(runs, data):
    save, _, _, _ = runs
    common = ["--data_dir", data, "--save_dir", save, "--seed", 3]
    text = fail("train.py", "--cfg_file", TFD, *common, *SMALL["tfd"], *STEPS, "optimizer.lr=0.5")
    assert "- optimizer.lr = 0.0002" in text
    assert "+ optimizer.lr = 0.5" in text
    assert "--resume_anyway" in text


def test_a_missing_stage_one_names_the_command_that_makes_it(data, tmp_path):
    text = fail("train.py", "--cfg_file", TFD, "--data_dir", data, "--save_dir", tmp_path, "--seed", 5)
    assert f"train.py --cfg_file {VQDINO} --data_dir {data} --save_dir {tmp_path} --seed 5" in text
    assert "--with_pretrain" in text


def test_a_checkpoint_of_another_model_is_refused_with_names_and_shapes(runs, data, tmp_path):
    save, _, _, _ = runs
    stage1 = save / "vqdino-coco-c256" / "3"
    text = fail("eval.py", "--cfg_file", TFD, "--ckpt_file", stage1, "--data_dir", data, *SMALL["tfd"])
    assert "missing: decoder" in text
    assert "unexpected: tokenizer.decoder" in text
    other = [text for text in SMALL["tfd"] if "num_codes" not in text]
    text = fail(
        "train.py", "--cfg_file", TFD, "--ckpt_file", stage1, "--data_dir", data, "--save_dir", tmp_path, *other
    )
    assert "shape: tokenizer.quantizer.basis is (32, 1024), the model has (4096, 1024)" in text


def test_every_fault_of_a_command_line_is_one_message(data, tmp_path):
    train = ["train.py", "--save_dir", tmp_path]
    tfd = [*train, "--cfg_file", TFD]
    assert "did you mean 'config-vqdino/vqdino_tfd_r-coco.py'?" in fail(*train, "--cfg_file", TFD.replace("tfd", "tdf"))
    assert "did you mean 'num_slots'?" in fail(*tfd, "--data_dir", data, "num_slot=3")
    text = fail(*tfd, "--data_dir", data, "model.type=VVOTdf", "loss.recon.type=CrossEntropi")
    assert "model.type: no class 'VVOTdf'; did you mean 'VVOTfd'?" in text
    assert "loss.recon.type: no class 'CrossEntropi'; did you mean 'CrossEntropy'?" in text
    assert "--data_dir is missing" in fail(*tfd)
    assert "no such folder" in fail(*tfd, "--data_dir", tmp_path / "nowhere")
    dinosaur = [*train, "--cfg_file", "config-dinosaur/dinosaur_r-coco.py", "pretrained=False"]
    text = fail(*dinosaur, "--data_dir", tmp_path)
    assert str(tmp_path / "coco" / "train.lmdb") in text
    assert "convert.py coco" in text
    assert "no checkpoint" in fail("eval.py", "--ckpt_file", tmp_path / "none", "--data_dir", data)
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert set(left) <= {".42.lock"}, "nothing but the lock of the run's folder"


def test_missing_weights_say_which_and_how_to_supply_them(data, tmp_path):
    dinosaur = ["train.py", "--cfg_file", "config-dinosaur/dinosaur_r-coco.py", "--save_dir", tmp_path]
    text = fail(*dinosaur, "--data_dir", data)
    assert "vit_small_patch14_dinov2" in text
    assert "weights" in text


@pytest.mark.parametrize("damage", ["truncated", "empty", "other", "version"])
def test_a_damaged_or_foreign_store_is_one_message(data, tmp_path, damage):
    folder = tmp_path / "coco"
    folder.mkdir()
    whole = (data / "coco" / "train.lmdb").read_bytes()
    (folder / "val.lmdb").write_bytes((data / "coco" / "val.lmdb").read_bytes())
    file = folder / "train.lmdb"
    if damage == "truncated":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "other":
        succeed("convert.py", "shapes", "--dst_dir", folder, "--num_train", 2, "--num_val", 1, "--size", 32, "--force")
    else:
        file.write_bytes(whole)
        with lmdb.open(str(file), subdir=False, lock=False) as store, store.begin(write=True) as change:
            header = change.get(b"__header__")
            assert b"version" in header
            position = header.index(b"version") + len(b"version")
            change.put(b"__header__", header[:position] + bytes([99]) + header[position + 1 :])
    dinosaur = ["train.py", "--cfg_file", "config-dinosaur/dinosaur_r-coco.py", "--save_dir", tmp_path / "save"]
    text = fail(*dinosaur, "--data_dir", tmp_path, "pretrained=False")
    assert str(file) in text


def test_a_loss_that_is_not_finite_ends_training_with_what_is_safe(data, tmp_path):
    arguments = ["--cfg_file", VQDINO, "--data_dir", data, "--save_dir", tmp_path, *SMALL["vqdino"], "precision=no"]
    text = fail("train.py", *arguments, "total_steps=20", "eval_every=1", "optimizer.lr=1e30")
    assert "the loss is not finite at step" in text
    assert "recon" in text
    assert "checkpoint" in text
    rows = [json.loads(line) for line in (tmp_path / "vqdino-coco-c256" / "42" / "log.jsonl").read_text().splitlines()]
    assert all(value is not None for row in rows for value in row.values())
