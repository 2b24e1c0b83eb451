"""What `inspect` tells about our files, published ones and damaged ones, and the contact sheets it draws."""

import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from object_centric_bench.datum import coco, shapes
from object_centric_bench.datum.inspection import Entry, Survey, inspect, size_text
from object_centric_bench.datum.lmdb import Reader
from object_centric_bench.datum.record import DataError, pack
from object_centric_bench.datum.stored_picture import CELL
from object_centric_bench.picture import GAP
from tests.conftest import require

from .stores import published, write


def told(capsys):
    """Return what was printed: lines by their first word, and all of it."""
    text = capsys.readouterr().out
    return {line.split()[0]: " ".join(line.split()[1:]) for line in text.splitlines() if line.strip()}, text


def png(array, extension=".png"):
    return cv2.imencode(extension, array)[1].tobytes()


@pytest.fixture
def drawn(tmp_path):
    shapes.convert(tmp_path, 9, 1, size=48)
    return tmp_path / "train.lmdb"


# ---------------------------------------------------------------------------------------------------------- our files


def test_shapes(drawn, tmp_path, capsys):
    inspect(drawn, pictures=str(tmp_path / "out" / "sheets"), count=3)
    lines, text = told(capsys)
    assert lines["format"] == "object_centric_bench, version 1" and lines["dataset"] == "shapes"
    assert lines["samples"] == "9" and lines["seed"] == "0" and "train.lmdb" in lines["file"]
    assert lines["image"].startswith("JPEG 48 x 48 x 3 uint8 ")
    assert lines["segment"].startswith("array 48 x 48 uint8 0..")
    assert lines["checksums"] == "all records of all 9 samples match"
    assert "of the first 3 samples" in text
    reader = Reader(drawn)
    numbers = [len(np.unique(reader.read(n)["segment"])) - 1 for n in range(9)]
    assert f"objects per image, {np.mean(numbers):.2f} on average" in text
    for number in set(numbers):
        assert lines[str(number)].startswith(f"{numbers.count(number)} #")
    share = np.mean([(reader.read(n)["segment"] == 0).mean() for n in range(9)])
    assert f"{100 * share:.1f} % of the pixels of 9 label maps" in text
    assert lines["pictures"] == str(tmp_path / "out" / "sheets" / "shapes-train.png")
    assert [path.name for path in (tmp_path / "out" / "sheets").iterdir()] == ["shapes-train.png"]
    sheet = np.array(Image.open(lines["pictures"]))
    assert sheet.shape == (2 * CELL + GAP, 4 * CELL + 3 * GAP, 3)  # two images a row, each plain and drawn
    assert (sheet[CELL + GAP :, 2 * (CELL + GAP) :] == 255).all()  # the fourth place is empty
    assert (sheet[:CELL, :CELL] != sheet[:CELL, CELL + GAP : 2 * CELL + GAP]).mean() > 0.9


def test_converted_coco(raw, tmp_path, capsys):
    coco.convert(require(raw / "coco"), tmp_path, split=("val",), limit=3)
    capsys.readouterr()
    inspect(tmp_path / "val.lmdb")
    lines, text = told(capsys)
    assert lines["dataset"] == "coco" and lines["split"] == "val" and lines["limit"] == "3"
    assert lines["source"] == "COCO 2017 panoptic"
    assert lines["box"].startswith("array") and "x 4 float32 0" in lines["box"]
    assert lines["is_thing"].endswith("bool 0..1") and lines["source_id"] == "str"
    reader = Reader(tmp_path / "val.lmdb")
    assert f"things per image, {np.mean([reader.read(n)['is_thing'].sum() for n in range(3)]):.2f}" in text


def test_our_videos(tmp_path, capsys):
    red = np.zeros((20, 40, 3), np.uint8)
    red[..., 2] = 255  # OpenCV's order
    label = np.zeros((20, 40), np.uint8)
    label[5:, 20:] = 2
    box = np.zeros((5, 3, 4), np.float32)
    box[2:, 1] = [0.5, 0.25, 1, 1]
    record = {"video": [png(red)] * 5, "segment": [label] * 5, "box": box, "depth": np.full((5, 1, 2, 2), np.nan)}
    write(tmp_path / "a.lmdb", "movi", [pack(record), pack({**record, "box": box[:, :0]})])
    inspect(tmp_path / "a.lmdb", pictures=str(tmp_path))
    lines, text = told(capsys)
    assert lines["video"] == "5 x PNG 20 x 40 x 3 uint8 0..255" and lines["segment"] == "5 x array 20 x 40 uint8 0..2"
    assert lines["box"] == "array 5 x 0..3 x 4 float32 0..1" and lines["depth"] == "array 5 x 1 x 2 x 2 float64 and NaN"
    assert "objects per video, 0.50 on average" in text
    sheet = np.array(Image.open(tmp_path / "movi-a.png"))
    assert sheet.shape == (2 * CELL + GAP, 3 * CELL + 2 * GAP, 3)  # a row per video: first, middle, last frame
    red_, green, _ = sheet[CELL // 2, 10]
    assert red_ > 120 and green < 60
    assert (sheet[:40, :CELL] == 255).all()  # 20 x 40 in the middle of a square


def test_what_was_left_out_is_listed(tmp_path, capsys):
    messages = [f"file{n}.jpg is bad" for n in range(7)]
    write(tmp_path / "a.lmdb", "toy", [pack({"number": 3})], attributes={"left_out": messages, "split": "val"})
    inspect(tmp_path / "a.lmdb", pictures=str(tmp_path / "out"))
    _, text = told(capsys)
    assert text.count("is bad") == 5 and "and 2 more" in text and "none: nothing could be decoded" in text
    assert not (tmp_path / "out").exists()


def test_histograms_of_many_numbers_have_few_lines(tmp_path):
    write(tmp_path / "a.lmdb", "toy", [pack({"category": np.zeros(n, np.uint8)}) for n in (0, 7, 100)])
    survey = Survey(Reader(tmp_path / "a.lmdb"), 1)
    survey.scan()
    lines = survey.histogram()
    assert lines[0] == "objects per image, 35.67 on average"
    assert lines[1].split()[:2] == ["0..6", "1"] and lines[2].split()[:2] == ["7..13", "1"]
    assert lines[-2].split()[:2] == ["98..100", "1"] and len(lines) == 17


def test_entries_that_some_samples_lack_are_told(tmp_path, capsys):
    write(tmp_path / "a.lmdb", "toy", [pack({"a": 1, "b": 2.5}), pack({"a": 3})])
    inspect(tmp_path / "a.lmdb")
    lines, _ = told(capsys)
    assert lines["a"] == "number - int64 1..3" and lines["b"] == "number (in 1 samples) - float64 2.5"


# ---------------------------------------------------------------------------------------------------- published files

GOLDEN_FILES = {
    "clevrtex/train": ("clevrtex", 4, "objects per image"),
    "clevrtex/val": ("clevrtex", 3, "objects per image"),
    "coco/train": ("coco", 5, "things per image"),
    "coco/val": ("coco", 4, "things per image"),
    "coco_msf/train": ("coco", 5, "things per image"),
    "coco_msf/val": ("coco", 4, "things per image"),
    "voc/train": ("voc", 4, "objects per image"),
    "voc/val": ("voc", 3, "objects per image"),
    "movi/train": ("movi", 3, "objects per video"),
    "movi/validation": ("movi", 3, "objects per video"),
}


@pytest.mark.parity
@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_published_files(golden, name, tmp_path, capsys):
    dataset, count, unit = GOLDEN_FILES[name]
    if dataset == "movi":
        pytest.importorskip("av")
    inspect(golden / "lmdb" / f"{name}.lmdb", pictures=str(tmp_path), count=2)
    lines, text = told(capsys)
    assert lines["format"] == "published, a pickled dict per sample" and lines["samples"] == str(count)
    assert lines["dataset"] == f"not named, by its keys: {dataset}"
    assert lines["checksums"] == f"none in published files; all {count} records could be decoded, pictures of 2"
    assert ("number the border 0" in text) == (dataset == "voc")
    sheet = np.array(Image.open(lines["pictures"]))
    assert sheet.shape[0] == (2 * CELL + GAP if dataset == "movi" else CELL)
    numbers = expected_numbers(np.load(golden / "lmdb" / name.split("/")[0] / "expected.npz"), *name.split("/"), count)
    assert f"{unit}, {np.mean(numbers):.2f} on average" in text


def expected_numbers(expected, folder, split, count):
    """Objects per sample in what the original reads: things of COCO, boxes of MOVi that are ever seen, else ids."""
    if folder.startswith("coco"):
        return [len(expected[f"{split}_instance.{n}.clazz"]) for n in range(count)]
    if folder == "movi":
        return [expected[f"{split}.{n}.bbox"].any(axis=(0, 2)).sum() for n in range(count)]
    return [len(np.unique(expected[f"{split}.{n}.segment"])) - 1 for n in range(count)]


@pytest.mark.parity
def test_movi_without_pyav(golden, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    inspect(golden / "lmdb" / "movi" / "train.lmdb", pictures=str(tmp_path))
    lines, text = told(capsys)
    assert lines["video"] == "AVI" and lines["videos"] == "not decoded, PyAV is missing: pip install av"
    assert "objects per video" in text and "none: nothing could be decoded" in text


def test_published_videos_of_2026_have_their_colours_exchanged(tmp_path, capsys):
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255  # written as if it were OpenCV's order
    wide = np.full((8, 8), 40000, np.uint16)
    frames = {"min": np.float32(0), "max": np.float32(1)}
    record = {
        "video": [np.frombuffer(png(red), np.uint8)] * 3,
        "segment": [np.frombuffer(png(red[..., 2]), np.uint8)[:, None]] * 3,
        "bbox": np.zeros((3, 1, 4), np.float32),
        "flow": {"data": [[np.frombuffer(png(wide), np.uint8)] * 3] * 2, **frames},
        "depth": {"data": [np.frombuffer(png(wide), np.uint8)] * 3, **frames},
        "s": np.uint8(4),
    }
    published(tmp_path / "a.lmdb", [record])
    inspect(tmp_path / "a.lmdb", pictures=str(tmp_path))
    lines, _ = told(capsys)
    assert lines["dataset"] == "not named, by its keys: movi" and lines["s"] == "number - uint8 4"
    assert lines["video"] == "3 x PNG 8 x 8 x 3 uint8 0..255" and lines["segment"] == "3 x PNG 8 x 8 uint8 0"
    assert lines["flow.data.1"] == lines["depth.data"] == "3 x PNG 8 x 8 uint16 40000"
    colour = np.array(Image.open(tmp_path / "movi-a.png"))[CELL // 2, CELL // 2].astype(int)
    assert colour[0] > colour[2] + 80


# ------------------------------------------------------------------------------------------------------------- damage


def test_a_damaged_file_names_its_samples(drawn, tmp_path, capsys):
    content = bytearray(drawn.read_bytes())
    for number in (2, 5):
        image = Reader(drawn).read(number)["image"]
        content[content.find(image) + len(image) // 2] ^= 255
    drawn.write_bytes(content)
    with pytest.raises(
        DataError, match=r"train.lmdb, sample 2: checksum does not match.*; 2 samples are damaged in all"
    ):
        inspect(drawn, pictures=str(tmp_path / "out"))
    lines, text = told(capsys)
    assert lines["checksums"] == "DAMAGED: 2 of 9 samples cannot be read: 2, 5"
    assert lines["image"].startswith("JPEG 48 x 48 x 3 uint8 ") and "(in " not in text  # of those that can be read
    assert (tmp_path / "out" / "shapes-train.png").exists()


@pytest.mark.parametrize(
    "record, text",
    [
        ({"image": b"\x89PNG and then nothing", "segment": 1}, "sample 1: 'image' cannot be decoded"),
        ({"image": b"", "segment": np.frombuffer(b"RIFF....WEBPnothing", np.uint8)}, "sample 1: 'segment'.*label map"),
        ({"image": b"RIFF....AVI nothing"}, "sample 1: 'image' cannot be decoded"),
        ([], "sample 1: a record must be a dict"),
    ],
)
def test_published_samples_that_cannot_be_decoded_are_named(tmp_path, record, text):
    good = {"image": png(np.zeros((8, 8, 3), np.uint8)), "segment": np.frombuffer(png(np.eye(8)), np.uint8)}
    published(tmp_path / "a.lmdb", [good, record])
    with pytest.raises(DataError, match=text):
        inspect(tmp_path / "a.lmdb")


def test_errors_of_the_user(drawn, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        inspect(tmp_path / "b.lmdb")
    with pytest.raises(DataError, match="count is at least 1"):
        inspect(drawn, count=0)
    with pytest.raises(DataError, match="cannot write"):
        inspect(drawn, pictures=str(drawn))


def test_an_empty_file(tmp_path, capsys):
    published(tmp_path / "a.lmdb", [])
    inspect(tmp_path / "a.lmdb", pictures=str(tmp_path))
    lines, _ = told(capsys)
    assert lines["samples"] == "0" and lines["dataset"] == "not named, by its keys: unknown"
    assert lines["pictures"] == "none: nothing could be decoded"


@pytest.mark.parametrize(
    "size, text", [(999, "999 bytes"), (28_700, "28.7 kB"), (5_400_000, "5.4 MB"), (19e9, "19.0 GB")]
)
def test_sizes_for_people(size, text):
    assert size_text(size) == text


def test_ranges_leave_nan_out():
    entry = Entry()
    entry.take(np.array([np.nan, 1.5, -np.inf]))
    entry.take(np.zeros((2, 0), np.float32))
    assert entry.row() == ["", "3 or 2 x 0", "float64 or float32", "-inf..1.5 and NaN"]
