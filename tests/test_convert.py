"""The command line of convert.py, in processes of its own."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from convert import DATASETS, main, make_parser

from .conftest import REPOSITORY


def run(*arguments, **options):
    command = [sys.executable, "convert.py", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, **options)


def test_coco_from_end_to_end(raw, tmp_path):
    result = run("coco", "--src-dir", raw / "coco", "--dst_dir", tmp_path, "--workers", 2)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.lmdb", "val.lmdb"]
    assert "sample/s" in result.stderr  # progress


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
    assert "000000900214.jpg cannot be decoded" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.lmdb"]
    assert main(arguments) == 2
    assert "train.lmdb exists" in capsys.readouterr().err


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
        [str(word) for word in command], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/.*.partial")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: to the workers too
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", DATASETS)
def test_help_tells_where_the_data_is(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert DATASETS[name].SOURCE.strip().splitlines()[-1].strip() in text and "--dst_dir" in text


def test_both_spellings_and_values_with_dashes():
    first = make_parser().parse_args(["shapes", "--dst_dir", "a-b", "--num_val", "3"])
    assert first.dst_dir == "a-b" and first.num_val == 3


@pytest.mark.parametrize("arguments", [[], ["cocoa"], ["coco"], ["shapes", "--dst_dir", "x", "--sizes", "3"]])
def test_unknown_words_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "usage" in capsys.readouterr().err
