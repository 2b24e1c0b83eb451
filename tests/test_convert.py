"""The command line of convert.py, in processes of its own."""

import contextlib
import inspect
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from convert import COMMANDS, DATASETS, load, main, make_parser
from object_centric_bench.datum.lmdb import Reader

from .conftest import REPOSITORY, require


def run(*arguments, **options):
    command = [sys.executable, "convert.py", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, **options)


def test_coco_from_end_to_end(raw, tmp_path):
    result = run("coco", "--src-dir", raw / "coco", "--dst_dir", tmp_path, "--workers", 2)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.lmdb", "val.lmdb"]
    assert "sample/s" not in result.stderr  # a progress bar is for terminals


def test_an_error_is_one_line(raw, tmp_path):
    result = run("coco", "--src_dir", raw / "voc", "--dst_dir", tmp_path / "out")
    assert result.returncode == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("convert.py: error: ") and "holds VOCdevkit" in lines[0]
    assert not (tmp_path / "out").exists()


def test_what_was_written_before_an_error_stays(raw, tmp_path, capsys):
    shutil.copytree(raw / "coco", tmp_path / "raw", copy_function=shutil.copyfile)
    (tmp_path / "raw/val2017/000000900214.jpg").write_bytes(b"no picture")
    arguments = ["coco", "--src_dir", str(tmp_path / "raw"), "--dst_dir", str(tmp_path / "out"), "--workers=2"]
    assert main(arguments) == 2
    assert "000000900214.jpg is no picture" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in (tmp_path / "out").glob("*.lmdb")] == ["train.lmdb"]
    written = (tmp_path / "out" / "train.lmdb").stat().st_mtime_ns
    assert main(arguments) == 2  # the same fault again: train.lmdb is kept
    assert "000000900214.jpg is no picture" in capsys.readouterr().err.splitlines()[-1]
    shutil.copyfile(raw / "coco/val2017/000000900214.jpg", tmp_path / "raw/val2017/000000900214.jpg")
    assert main(arguments) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train.lmdb", "val.lmdb"]
    assert (tmp_path / "out" / "train.lmdb").stat().st_mtime_ns == written
    capsys.readouterr()
    assert main(arguments) == 2
    assert "train.lmdb exists; give another --dst_dir, or --force to replace it" in capsys.readouterr().err


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(tmp_path, number, code):
    command = [
        sys.executable,
        "convert.py",
        "shapes",
        "--dst_dir",
        tmp_path / "out",
        "--workers=2",
        "--num_train=100000",
    ]
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell's background jobs ignore it, and so would this process if the tests run in one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        _, errors = interrupted(process, number, tmp_path)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert list((tmp_path / "out").glob("*.lmdb")) == []  # what is there has a hidden name, for the next run


def interrupted(process, number, tmp_path):
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/.*.partial")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: to the workers too
    else:
        process.send_signal(number)
    return process.communicate(timeout=60)


ENTRIES = {
    "clevrtex": ["clevrtex_full_part1.tar.gz", "clevrtex_outd.tar.gz", "GB", "clevrtex_full/"],
    "coco": ["train2017.zip", "18 GB", "panoptic_annotations_trainval2017.zip", "annotations/panoptic_val2017/*.png"],
    "voc": ["VOCtrainval_11-May-2012.tar", "VOCtrainval_06-Nov-2007.tar", "SegmentationObject"],
    "movi": ["gs://kubric-public/tfds/movi_", "256x256/1.0.0", "tfrecord"],
    "shapes": ["Nothing to download"],
    "moving_shapes": ["Nothing to download"],
}


@pytest.mark.parametrize("name", DATASETS)
def test_help_tells_where_the_data_is(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(entry in text for entry in ENTRIES[name])
    assert all(line in text for line in sys.modules[load(name).__module__].SOURCE.splitlines())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_is_explained(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    text = capsys.readouterr().out
    for argument in inspect.signature(load(name)).parameters:
        assert f"--{argument}" in text or argument.upper() in text


SOURCES = {
    "clevrtex": ("clevrtex", [], (6, 3)),
    "coco": ("coco", [], (6, 4)),
    "coco pixels": ("coco", ["--pixels"], (6, 4)),
    "voc": ("voc", [], (5, 3)),
    "voc official": ("voc", ["--voc_split", "official"], None),
    "movi": ("movi/movi_d/32x32", [], (4, 2)),
}


@pytest.mark.parametrize("case", SOURCES)
def test_from_the_official_layout_to_files_that_can_be_inspected(raw, tmp_path, case, capsys):
    """Every dataset, as a user types it."""
    folder, options, counts = SOURCES[case]
    name = case.partition(" ")[0]
    result = run(name, "--src_dir", raw / folder, "--dst_dir", tmp_path / name, "--workers", 2, *options)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["train.lmdb", "val.lmdb"]
    for split, count in zip(("train", "val"), counts or (None, None), strict=True):
        reader = Reader(tmp_path / name / f"{split}.lmdb", name)
        assert len(reader) == count if count else len(reader) > 0
    assert ("leak" in result.stderr) == (case == "voc")
    assert main(["inspect", str(tmp_path / name / "val.lmdb"), "--pictures", str(tmp_path / "out")]) == 0
    assert name in capsys.readouterr().out
    assert list((tmp_path / "out").glob("*.png"))


def test_upgrade_from_the_command_line(golden, tmp_path, capsys):
    source = require(golden / "lmdb" / "voc" / "val.lmdb")
    assert main(["upgrade", str(source), str(tmp_path / "val.lmdb"), "--labels", "merged", "--workers", "1"]) == 0
    assert len(Reader(tmp_path / "val.lmdb", "voc")) == len(Reader(source))
    assert main(["upgrade", str(source), str(tmp_path / "other.lmdb")]) == 2
    assert "labels" in capsys.readouterr().err


def test_both_spellings_and_values_with_dashes():
    first = make_parser("shapes").parse_args(["shapes", "--dst_dir", "a-b", "--num_val", "3"])
    assert first.dst_dir == "a-b" and first.num_val == 3


WRONG = [
    [],
    ["cocoa"],
    ["coco"],
    ["shapes", "--dst_dir", "x", "--sizes", "3"],
    ["inspect"],
    ["voc", "--src_dir", "x", "--dst_dir", "y", "--voc_split", "2012"],
    ["upgrade", "a.lmdb"],
]


@pytest.mark.parametrize("arguments", WRONG)
def test_unknown_words_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "usage" in capsys.readouterr().err
