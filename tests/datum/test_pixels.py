"""Pictures stored decoded: samples equal to the bit those of encoded ones, whole or refused, known to all tools."""

import functools
import shutil

import cv2
import lmdb
import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from object_centric_bench.datum import clevrtex, coco, environment, record, voc, writer
from object_centric_bench.datum.clevrtex import ClevrTex
from object_centric_bench.datum.coco import COCO
from object_centric_bench.datum.identity import identity
from object_centric_bench.datum.inspection import inspect
from object_centric_bench.datum.lmdb import Reader, sample_key
from object_centric_bench.datum.record import Bands, DataError, Pixels, pack, seal, unpack, unpack_entry
from object_centric_bench.datum.source import stored_picture
from object_centric_bench.datum.transform import RandomCrop, RandomFlip, Resize
from object_centric_bench.datum.upgrade import upgrade
from object_centric_bench.datum.voc import VOC
from tests.conftest import require

from .stores import raw as write_raw
from .stores import write

CONVERT = {"coco": coco.convert, "voc": voc.convert, "clevrtex": clevrtex.convert}
CLASSES = {"coco": COCO, "voc": VOC, "clevrtex": ClevrTex}
WIDTH = 3 * 7  # bytes of a row below


@pytest.fixture(scope="module")
def converted(raw, tmp_path_factory):
    """Folders of each dataset's files, with pictures encoded and decoded."""

    @functools.cache
    def make(name):
        folder = tmp_path_factory.mktemp(name)
        CONVERT[name](raw / name, folder / "encoded")
        CONVERT[name](raw / name, folder / "pixels", pixels=True)
        return folder / "encoded", folder / "pixels"

    return make


@pytest.fixture
def small_bands(monkeypatch):
    """Bands of three rows of the pictures of `store`."""
    monkeypatch.setattr(record, "BAND", 3 * WIDTH + 1)


@pytest.fixture
def store(tmp_path, small_bands):
    """A file of four samples whose pictures have 11 rows of 7 pixels, in four bands; and these pictures."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (11, 7, 3), dtype=np.uint8) for _ in range(4)]
    label = np.eye(11, 7, dtype=np.uint8)
    samples = [pack({"image": Pixels(each), "segment": label, "source_id": str(n)}) for n, each in enumerate(pictures)]
    write(tmp_path / "a.lmdb", "coco", samples)
    return tmp_path / "a.lmdb", pictures


# ----------------------------------------------------------------------------------------------------------- the format


@settings(deadline=None, max_examples=40)
@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))), st.integers(1, 500)
)  # fmt: skip
def test_pictures_round_trip_in_bands_of_any_size(array, band):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "BAND", band)
        (_, main), (suffix, stored) = pack({"image": Pixels(array[:, ::-1])}).values  # not contiguous
    assert suffix == ".image" and len(stored) == array.size
    bands = unpack_entry(unpack(main)["image"])
    rows = max(1, band // (3 * array.shape[1]))
    assert bands.rows == rows and len(bands.checksums) == -(-array.shape[0] // rows)
    decoded = bands.read(memoryview(stored))
    np.testing.assert_array_equal(decoded, array[:, ::-1])
    assert decoded.flags.writeable and decoded.dtype == np.uint8


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_other_arrays_are_no_pictures(array):
    with pytest.raises(DataError, match=r"pixels are \(h w 3\) of uint8"):
        pack({"image": Pixels(array)})


def test_a_file_is_read_in_part_or_whole(store):
    file, pictures = store
    reader = Reader(file)
    for index, picture in enumerate(pictures):
        np.testing.assert_array_equal(reader.read(index)["image"], picture)
    assert reader.read(1, ["segment"]).keys() == {"segment"}
    assert reader.header.num_values == 8
    reader.verify()


@pytest.mark.parametrize("row", range(11))
def test_a_changed_byte_is_found_in_its_sample_only(store, row):
    file, pictures = store
    damaged = pictures[2].copy()
    damaged[row, 1, 2] ^= 1
    data = file.read_bytes()
    file.write_bytes(data.replace(pictures[2].tobytes(), damaged.tobytes()))
    assert file.read_bytes() != data
    dataset = COCO("a.lmdb", ["image"], data_dir=str(file.parent))
    with pytest.raises(DataError, match=r"a.lmdb, sample 2: checksum of a picture does not match.*convert.py coco"):
        dataset.sample(2, np.random.default_rng(0))
    for index in (0, 1, 3):
        dataset.sample(index, np.random.default_rng(0))
    assert dataset.reader.read(2, ["source_id"]) == {"source_id": "2"}  # the picture is not looked at
    with pytest.raises(DataError, match="sample 2"):
        inspect(file)


def changed(file, change):
    """Rewrite a file after changing its dict of records."""
    with lmdb.open(str(file), subdir=False, readonly=True, lock=False) as opened, opened.begin() as transaction:
        pairs = {bytes(key): bytes(value) for key, value in transaction.cursor()}
    change(pairs)
    write_raw(file.with_name("changed.lmdb"), pairs)
    return file.with_name("changed.lmdb")


def cut(pairs):
    pairs[b"00000001.image"] = pairs[b"00000001.image"][:-1]


def empty(pairs):
    pairs[b"00000001.image"] = b""


def rename(pairs):
    pairs[b"00000001.other"] = pairs.pop(b"00000001.image")


CHANGES = {
    cut: "sample 1: 230 bytes and 4 checksums are no picture of 7x11",
    empty: "sample 1: 0 bytes and 4 checksums are no picture",
    rename: "sample 1: there is no record b'00000001.image'",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_cut_or_missing_picture_is_named(store, change):
    file = changed(store[0], change)
    with pytest.raises(DataError, match=f"changed.lmdb, {CHANGES[change]}.*make it again"):
        Reader(file).read(1)


NUMBERS = st.one_of(st.integers(-5, 12), st.integers(0, 2**63 - 1), st.none(), st.booleans(), st.just("x"))
FIELDS = st.one_of(st.lists(NUMBERS, max_size=6), st.tuples(NUMBERS, NUMBERS, NUMBERS, st.lists(NUMBERS, max_size=5)))


@settings(deadline=None, max_examples=200)
@given(FIELDS)
def test_what_describes_no_picture_is_refused(tmp_path_factory, fields):
    """What damage leaves intact as MessagePack, or somebody wrote on purpose, is one clear error."""
    file = tmp_path_factory.mktemp("hostile") / "a.lmdb"
    write(file, "coco", [pack({"image": Pixels(np.zeros((11, 7, 3), np.uint8))})])

    def change(pairs):
        entry = msgpack.ExtType(record.PIXELS_CODE, msgpack.packb(fields))
        pairs[sample_key(0)] = seal(msgpack.packb({"image": entry}))

    with pytest.raises(DataError, match=r"changed.lmdb, sample 0: .*make (it|the file) again"):
        Reader(changed(file, change)).read(0)


def test_arrays_that_are_no_pictures_are_refused_by_datasets(tmp_path):
    for array in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 4), np.uint8)):
        write(tmp_path / "a.lmdb", "coco", [pack({"image": array})], force=True)
        with pytest.raises(DataError, match=r"a.lmdb, sample 0: the picture cannot be decoded"):
            COCO("a.lmdb", ["image"], data_dir=str(tmp_path)).sample(0, np.random.default_rng(0))


def test_the_system_reads_ahead_in_files_of_large_records(tmp_path, monkeypatch):
    asked = {}
    original = lmdb.open
    monkeypatch.setattr(environment.lmdb, "open", lambda path, **o: asked.update({path: o}) or original(path, **o))
    for name, side in (("large", 500), ("small", 50)):
        file = tmp_path / f"{name}.lmdb"
        write(file, "coco", [pack({"image": Pixels(np.zeros((side, side, 3), np.uint8))}) for _ in range(3)])
        Reader(file).verify()
        assert asked[str(file)]["readahead"] == (name == "large")


# ---------------------------------------------------------------------------------------------------------- conversions


@pytest.mark.parametrize("name", CONVERT)
@pytest.mark.parametrize("split", ["train", "val"])
def test_samples_equal_those_of_encoded_pictures(converted, name, split):
    cls = CLASSES[name]
    keys = [key for key in cls.offered if key != "depth"]
    labels = [key for key in ("segment", "ignore", "semantic") if key in keys and key not in cls.derived]
    transforms = [
        RandomCrop(["image", *labels]),
        Resize(["image"], 24),
        Resize(labels, 24, "nearest-exact"),
        RandomFlip(["image", *labels]),
    ]
    for steps in ([], transforms):
        encoded, decoded = (cls(f"{split}.lmdb", keys, steps, data_dir=str(each)) for each in converted(name))
        assert len(encoded) == len(decoded) > 0
        for index in range(len(encoded)):
            for seed in range(3):
                expected, found = (each.sample(index, np.random.default_rng(seed)) for each in (encoded, decoded))
                assert expected.keys() == found.keys()
                for key in keys:
                    assert torch.equal(expected[key], found[key]) and expected[key].dtype == found[key].dtype, key
                    assert found[key].is_contiguous()
            assert encoded.source_id(index) == decoded.source_id(index)


@pytest.mark.parametrize("name", CONVERT)
def test_only_files_with_decoded_pictures_have_the_new_version(converted, name):
    encoded, decoded = (Reader(folder / "val.lmdb").header for folder in converted(name))
    assert encoded.version == 1 and "pixels" not in encoded.attributes
    assert decoded.version == 2 and decoded.attributes == encoded.attributes | {"pixels": True}


@pytest.fixture
def source(raw, tmp_path):
    """A copy of COCO's raw data that a test may change."""
    return shutil.copytree(raw / "coco", tmp_path / "raw", copy_function=shutil.copyfile)


def test_grey_and_turned_pictures(source, tmp_path):
    """What decoders may treat differently: one channel, and an orientation that label maps do not follow."""
    first, second = sorted((source / "val2017").glob("*.jpg"))[:2]
    with Image.open(first) as picture:
        picture.convert("L").save(first)
    with Image.open(second) as picture:
        exif = picture.getexif()
        exif[0x0112] = 6  # to be turned by 90 degrees
        picture.save(second, exif=exif)
    for folder, pixels in (("encoded", False), ("pixels", True)):
        coco.convert(source, tmp_path / folder, split=("val",), pixels=pixels)
    both = [COCO("val.lmdb", ["image"], data_dir=str(tmp_path / each)) for each in ("encoded", "pixels")]
    for index in range(len(both[0])):
        encoded, decoded = (each.sample(index, np.random.default_rng(0))["image"] for each in both)
        assert torch.equal(encoded, decoded)
    found = {both[1].source_id(index): both[1].sample(index, np.random.default_rng(0))["image"] for index in range(2)}
    assert torch.equal(found[first.stem][0], found[first.stem][2])


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_writes_the_same_bytes(raw, converted, tmp_path, workers):
    coco.convert(raw / "coco", tmp_path, workers=workers, pixels=True)
    for name in ("train.lmdb", "val.lmdb"):
        assert (tmp_path / name).read_bytes() == (converted("coco")[1] / name).read_bytes()


class Stop(Exception):
    pass


def stop_at(monkeypatch, number):
    """Commit each sample by itself, and let that commit fail."""
    original, count = writer.write_values, iter(range(100))

    def write_values(file, pairs):
        if next(count) == number:
            raise Stop
        original(file, pairs)

    monkeypatch.setattr(writer, "COMMIT_SAMPLES", 1)
    monkeypatch.setattr(writer, "write_values", write_values)


def test_an_interrupted_conversion_goes_on_to_the_same_bytes(raw, tmp_path, monkeypatch, caplog):
    convert = functools.partial(coco.convert, raw / "coco", split=("train",), pixels=True)
    stop_at(monkeypatch, 99)
    convert(tmp_path / "whole")
    for number in range(7):  # six samples and the header
        out = tmp_path / str(number)
        stop_at(monkeypatch, number)
        with pytest.raises(Stop):
            convert(out)
        stop_at(monkeypatch, 99)
        convert(out)
        assert (out / "train.lmdb").read_bytes() == (tmp_path / "whole" / "train.lmdb").read_bytes()
    assert sum("going on after" in text for text in caplog.messages) == 6


@pytest.mark.parametrize("first", [False, True])
def test_the_other_kind_of_pictures_starts_again(raw, converted, tmp_path, monkeypatch, caplog, first):
    convert = functools.partial(coco.convert, raw / "coco", tmp_path, split=("train",))
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(Stop):
            convert(pixels=first)
    convert(pixels=not first)
    assert any("has changed since" in text for text in caplog.messages)
    assert (tmp_path / "train.lmdb").read_bytes() == (converted("coco")[not first] / "train.lmdb").read_bytes()


def test_bad_pictures_are_left_out(source, tmp_path):
    bad = sorted((source / "val2017").glob("*.jpg"))[1]
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(DataError, match=f"{bad.name} is cut off"):
        coco.convert(source, tmp_path / "out", split=("val",), pixels=True)
    coco.convert(source, tmp_path / "out", split=("val",), pixels=True, skip_bad=True)
    reader = Reader(tmp_path / "out" / "val.lmdb")
    assert len(reader) == 3 and bad.name in reader.header.attributes["left_out"][0]
    reader.verify()


def test_what_opencv_cannot_decode_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a.jpg cannot be decoded; download it again"):
        stored_picture(b"GIF89a", tmp_path / "a.jpg", pixels=True)


# ---------------------------------------------------------------------------------------------------------------- tools


def test_inspect_tells_and_draws_the_same(converted, tmp_path, capsys):
    sheets, texts = [], []
    for folder in converted("coco"):
        inspect(folder / "val.lmdb", pictures=str(tmp_path / folder.name))
        texts.append(capsys.readouterr().out)
        (sheet,) = (tmp_path / folder.name).iterdir()
        sheets.append(cv2.imread(str(sheet)))
    np.testing.assert_array_equal(*sheets)
    lines = {line.split()[0]: line.split()[1:] for line in texts[1].splitlines() if line.strip()}
    assert lines["format"][-2:] == ["version", "2"] and lines["pixels"] == ["True"] and lines["image"][0] == "array"
    assert "all records of all 4 samples match" in texts[1]


def test_identity_tells_pictures_apart(store, raw, converted, tmp_path):
    file, pictures = store
    other = [each.copy() for each in pictures]
    other[3][10, 6, 2] ^= 1
    for name, arrays_ in (("same", pictures), ("other", other)):
        label = np.eye(11, 7, dtype=np.uint8)
        samples = [{"image": Pixels(each), "segment": label, "source_id": str(n)} for n, each in enumerate(arrays_)]
        write(tmp_path / f"{name}.lmdb", "coco", [pack(each) for each in samples])
    known, same, changed_ = (identity(Reader(each)) for each in (file, tmp_path / "same.lmdb", tmp_path / "other.lmdb"))
    assert known == same != changed_


@pytest.mark.parametrize("name, labels", [("coco", None), ("clevrtex", None), ("voc", "merged")])
def test_published_files_are_upgraded_to_pixels(golden, tmp_path, name, labels):
    """`upgrade` itself compares every sample; here, what it wrote."""
    upgrade(require(golden / "lmdb" / name / "val.lmdb"), tmp_path / "val.lmdb", labels=labels, pixels=True)
    reader = Reader(tmp_path / "val.lmdb", name)
    assert reader.header.version == 2 and isinstance(reader.read(0)["image"], np.ndarray)
    reader.verify()


def test_videos_are_not_upgraded_to_pixels(golden, tmp_path):
    source = require(golden / "lmdb" / "movi" / "train.lmdb")
    with pytest.raises(DataError, match="leave out --pixels"):
        upgrade(source, tmp_path / "val.lmdb", pixels=True)
    assert not list(tmp_path.iterdir())


def test_a_band_knows_its_place():
    """Two bands exchanged have the right checksums in the wrong order."""
    rows = np.repeat(np.arange(4, dtype=np.uint8), 6).reshape(4, 2, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "BAND", 12)
        (_, main), (_, stored) = pack({"image": Pixels(rows)}).values
    bands = unpack_entry(unpack(main)["image"])
    assert bands == Bands(4, 2, 2, bands.checksums)
    with pytest.raises(DataError, match="does not match"):
        bands.read(memoryview(stored[12:] + stored[:12]))
