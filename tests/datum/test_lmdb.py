"""The store: what goes in comes out, unfinished and damaged files are refused with one clear message."""

import contextlib
import io
import multiprocessing
import os
import pickle
import shutil
import struct
import threading

import msgpack
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from object_centric_bench.datum import environment
from object_centric_bench.datum import lmdb as store
from object_centric_bench.datum import unpickle as unpickling
from object_centric_bench.datum.lmdb import Reader
from object_centric_bench.datum.record import DataError, pack, seal, unpack, unpack_entry
from object_centric_bench.datum.unpickle import unpickle
from tests.conftest import require

from .stores import published, raw, write

COMMAND = "python convert.py toy"


def record(index, size=20):
    rng = np.random.default_rng(index)
    return {
        "image": rng.bytes(3000),
        "segment": rng.integers(0, 4, (size, size), dtype=np.uint8),
        "box": rng.random((3, 4), dtype=np.float32),
        "source_id": f"picture {index}",
    }


def make(file, count=70, **options):
    return write(file, "toy", (pack(record(index)) for index in range(count)), **options)


@pytest.fixture
def file(tmp_path):
    make(tmp_path / "toy.lmdb")
    return tmp_path / "toy.lmdb"


# ------------------------------------------------------------------------------------------------------- round trips


def test_what_goes_in_comes_out(file):
    reader = Reader(file, "toy", COMMAND)
    assert len(reader) == 70 and reader.header.dataset == "toy" and not reader.published
    for index in (0, 63, 64, 69):
        stored, given_ = reader.read(index), record(index)
        assert stored.keys() == given_.keys()
        for key in stored:
            np.testing.assert_array_equal(stored[key], given_[key])
            assert type(stored[key]) is type(given_[key])
    assert reader.read(3, ["box", "nothing"]).keys() == {"box"}
    assert reader.header.max_segment == 3
    reader.verify()


@settings(deadline=None, max_examples=60)
@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int32, np.float32, np.bool_, np.int64, ">u2"]),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40),
    )
)
def test_arrays_round_trip(array):
    ((_, value),) = pack({"array": array}).values
    decoded = unpack_entry(unpack(value)["array"])
    np.testing.assert_array_equal(decoded, array)
    assert decoded.dtype == array.dtype.newbyteorder("<") and decoded.shape == array.shape
    assert decoded.flags.writeable


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 65535), st.integers(0, 2**32 - 1))
def test_label_maps_with_any_number_of_ids(tmp_path_factory, ids, seed):
    segment = np.random.default_rng(seed).integers(0, ids + 1, (300, 300)).astype(np.uint16)
    segment[0, 0] = ids
    file = tmp_path_factory.mktemp("ids") / "a.lmdb"
    write(file, "toy", [pack({"segment": segment})])
    assert Reader(file).header.max_segment == ids
    np.testing.assert_array_equal(Reader(file).read(0)["segment"], segment)


def test_header_and_attributes(tmp_path):
    make(tmp_path / "a.lmdb", 1, attributes={"source": "here", "seed": 3})
    header = Reader(tmp_path / "a.lmdb").header
    assert header.attributes == {"source": "here", "seed": 3} and header.num_samples == 1


def test_grows_beyond_its_first_map(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SMALLEST_MAP", 1 << 16)
    make(tmp_path / "a.lmdb", count=200)
    monkeypatch.undo()
    Reader(tmp_path / "a.lmdb").verify()
    assert len(Reader(tmp_path / "a.lmdb")) == 200


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_any_slice_of_a_list_reads_those_elements_only(tmp_path_factory, data):
    length = data.draw(st.integers(1, 12))
    frames = [np.full((2, 3), n, np.uint8) for n in range(length)]
    file = tmp_path_factory.mktemp("lists") / "a.lmdb"
    write(file, "toy", [pack({"video": [bytes([n]) for n in range(length)], "segment": frames, "source_id": "x"})] * 2)
    reader = Reader(file)
    assert reader.header.num_samples == 2 and reader.header.max_segment == length - 1
    chosen = data.draw(st.slices(length))
    calls = []
    record = reader.read(1, choose=lambda count: calls.append(count) or range(count)[chosen])
    assert calls == [length] and record["source_id"] == "x"
    assert record["video"] == [bytes([n]) for n in range(length)][chosen]
    np.testing.assert_array_equal(np.array(record["segment"]), np.array(frames[chosen]))
    assert reader.read(0)["video"] == [bytes([n]) for n in range(length)]


def test_same_bytes_twice(tmp_path):
    make(tmp_path / "a.lmdb")
    make(tmp_path / "b.lmdb")
    assert (tmp_path / "a.lmdb").read_bytes() == (tmp_path / "b.lmdb").read_bytes()


@pytest.mark.parametrize("entry", [np.array(["text"]), np.array([None]), np.zeros(2, "M8[s]"), np.zeros(1, "u1,u2")])
def test_only_numbers_are_stored(entry):
    with pytest.raises(DataError, match="not stored"):
        pack({"entry": entry})


# --------------------------------------------------------------------------------------------------------- bad files


def test_missing(tmp_path):
    with pytest.raises(DataError, match=r"no such file; make it with: python convert.py toy"):
        Reader(tmp_path / "a.lmdb", "toy", COMMAND)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        Reader(tmp_path)


@pytest.mark.parametrize(
    "content, text",
    [(b"", "is empty"), (b"text" * 5000, "not an LMDB"), (b"x", "not an LMDB"), (bytes(9000), "not an")],
)
def test_no_lmdb(tmp_path, content, text):
    (tmp_path / "a.lmdb").write_bytes(content)
    with pytest.raises(DataError, match=text):
        Reader(tmp_path / "a.lmdb")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_cut_off(file, share):
    """Without the check of the size, reading would kill the process with SIGBUS."""
    os.truncate(file, int(file.stat().st_size * share))
    with pytest.raises(DataError, match=r"cut off|not an LMDB"):
        Reader(file)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_cut_is_noticed(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("cut") / "a.lmdb"
    make(file, count=5)
    os.truncate(file, data.draw(st.integers(0, file.stat().st_size - 1)))
    with pytest.raises(DataError):
        Reader(file)


def test_another_dataset(file):
    with pytest.raises(DataError, match=r"'toy'.*'coco'"):
        Reader(file, "coco", COMMAND)


def test_newer_version(tmp_path):
    fields = {"magic": store.MAGIC, "version": 3, "dataset": "toy", "num_samples": 0, "max_segment": 0}
    raw(tmp_path / "a.lmdb", {store.HEADER_KEY: seal(msgpack.packb(fields))})
    with pytest.raises(DataError, match=r"version 3.*reads up to 2"):
        Reader(tmp_path / "a.lmdb")


def test_foreign_lmdb(tmp_path):
    raw(tmp_path / "a.lmdb", {b"a": b"b"})
    with pytest.raises(DataError, match="neither ours nor a published"):
        Reader(tmp_path / "a.lmdb")
    raw(tmp_path / "b.lmdb", {store.HEADER_KEY: seal(msgpack.packb({"magic": "other"}))})
    with pytest.raises(DataError, match="not written by this framework"):
        Reader(tmp_path / "b.lmdb")


def test_header_and_records_disagree(tmp_path):
    fields = {"magic": store.MAGIC, "version": 1, "dataset": "toy", "num_samples": 5, "max_segment": 0}
    raw(tmp_path / "a.lmdb", {store.HEADER_KEY: seal(msgpack.packb(fields)), b"00000000": b"1234"})
    with pytest.raises(DataError, match="announces 5 records and holds 1"):
        Reader(tmp_path / "a.lmdb")


def test_damaged_record(file):
    content = bytearray(file.read_bytes())
    target = content.find(record(12)["image"])
    assert target > 0
    content[target + 100] ^= 1
    file.write_bytes(content)
    reader = Reader(file)
    reader.read(11)
    with pytest.raises(DataError, match=r"toy.lmdb, sample 12: checksum"):
        reader.read(12)
    with pytest.raises(DataError, match="sample 12"):
        reader.verify()


def test_no_such_index(file):
    for index in (-1, 70):
        with pytest.raises(IndexError, match="of 70"):
            Reader(file).read(index)


# ------------------------------------------------------------------------------------------------- published records


@pytest.mark.parametrize("protocol", range(3, 6))
def test_harmless_pickles_are_decoded(protocol):
    value = {
        "bytes": b"abc",
        "array": np.arange(12, dtype=np.float32).reshape(3, 4),
        "fortran": np.asfortranarray(np.arange(12, dtype=np.uint16).reshape(3, 4)),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 4), np.float32),
        "big": np.arange(3, dtype=">i4"),
        "scalar": np.float32(1.5),
        "nested": {"data": [io.BytesIO(b"def"), (1, 2.5, None, "text")]},
    }
    decoded = unpickle(pickle.dumps(value, protocol), "here")
    assert decoded["nested"] == {"data": [b"def", (1, 2.5, None, "text")]}
    assert decoded["bytes"] == b"abc" and decoded["scalar"] == np.float32(1.5)
    for key in ("array", "fortran", "flags", "empty", "big"):
        np.testing.assert_array_equal(decoded[key], value[key])
        assert decoded[key].dtype == value[key].dtype
    packed = zstandard.ZstdCompressor().compress(pickle.dumps(value, protocol))
    assert unpickle(packed, "here")["bytes"] == b"abc"


class Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "attack, name",
    [
        (Attack(os.system, "touch harmed"), "system"),
        (Attack(eval, "open('harmed', 'w')"), "eval"),
        (Attack(getattr, "text", "format"), "getattr"),
        (Attack(np.load, "file", None, True), "load"),
        (Attack(np.memmap, "harmed"), "memmap"),
    ],
)
def test_pickles_that_run_code_are_refused(tmp_path, monkeypatch, attack, name):
    monkeypatch.chdir(tmp_path)
    published(tmp_path / "a.lmdb", [{"image": b"", "segment": attack}])
    with pytest.raises(DataError, match=rf"a.lmdb, sample 0: .*{name}, which is refused"):
        Reader(tmp_path / "a.lmdb").read(0)
    assert not (tmp_path / "harmed").exists()
    listed = pickle.dumps([attack], 4)
    raw(tmp_path / "b.lmdb", {store.PUBLISHED_KEY: listed})
    with pytest.raises(DataError, match="refused"):
        Reader(tmp_path / "b.lmdb")


@pytest.mark.parametrize(
    "array", [np.array([None, {}]), np.array(["a"]), np.zeros(2, [("a", "u1")]), np.zeros(1, "M8")]
)
def test_arrays_that_hold_no_numbers_are_refused(array):
    with pytest.raises(DataError, match=r"refused|damaged"):
        unpickle(pickle.dumps({"array": array}, 4), "here")


def test_dtypes_with_fields_in_their_state_are_refused():
    with pytest.raises(DataError, match="structured"):
        unpickling._DType("u1").__setstate__((3, "<", None, ("a",), {"a": 0}, 1, 1, 0))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 400), st.integers(0, 255), st.booleans())
def test_damaged_pickles_raise_nothing_else(position, value, cut):
    content = bytearray(pickle.dumps({"array": np.arange(20), "bytes": b"x" * 50, "list": [np.float32(1)]}, 4))
    content[position % len(content)] = value
    with contextlib.suppress(DataError):
        unpickle(bytes(content[: position if cut else None]), "here")


def test_published_key_lists(tmp_path):
    published(tmp_path / "a.lmdb", [{"image": b"1"}, {"image": b"2"}], keys=[b"000001", b"000000"])
    reader = Reader(tmp_path / "a.lmdb")
    assert reader.published and len(reader) == 2
    assert [reader.read(index)["image"] for index in range(2)] == [b"2", b"1"] and reader.key(0) == "000001"
    published(tmp_path / "b.lmdb", [{"image": b""}], keys=[b"000000", b"000001"])
    with pytest.raises(DataError, match="lists 2 samples and holds 1"):
        Reader(tmp_path / "b.lmdb")
    published(tmp_path / "c.lmdb", [{"image": b""}], keys=[b"other"])
    with pytest.raises(DataError, match=r"sample 0: there is no record b'other'"):
        Reader(tmp_path / "c.lmdb").read(0)
    published(tmp_path / "d.lmdb", [{"image": b""}], keys={"no": "list"})
    with pytest.raises(DataError, match="no list of keys"):
        Reader(tmp_path / "d.lmdb")
    published(tmp_path / "e.lmdb", [[1]])
    with pytest.raises(DataError, match="must be a dict"):
        Reader(tmp_path / "e.lmdb").read(0)


@pytest.mark.parity
def test_reads_every_published_kind_of_file(golden, tmp_path):
    for file in sorted(require(golden / "lmdb").rglob("*.lmdb")):
        copy = shutil.copy(file, tmp_path / f"{file.parent.name}-{file.name}")
        reader = Reader(copy)
        assert reader.published and len(reader) > 0
        reader.verify()
        assert {"image", "video"} & set(reader.read(0))


# --------------------------------------------------------------------------------------------------------- processes


def total(reader, queue):
    queue.put(sum(len(reader.read(index)["image"]) for index in range(len(reader))))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_reads_in_other_processes(file, method):
    reader = Reader(file, "toy")
    reader.read(0)  # the handle is open when the process starts
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=total, args=(reader, queue))
    process.start()
    assert queue.get(timeout=60) == 70 * 3000
    process.join()
    assert process.exitcode == 0


def test_a_forked_process_opens_its_own_handle(file):
    Reader(file)
    assert str(file) in environment._paths
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=lambda: queue.put(len(environment._open)))
    process.start()
    assert queue.get(timeout=60) == 0
    process.join()


def test_holds_no_handle(file):
    copy = pickle.loads(pickle.dumps(Reader(file, "toy")))
    assert copy.read(5)["source_id"] == "picture 5"


def test_several_readers_and_threads_share_a_file(file):
    readers = [Reader(file) for _ in range(8)]
    results = []
    threads = [
        threading.Thread(target=lambda r=reader: results.append(sum(len(r.read(i)["image"]) for i in range(70))))
        for reader in readers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [70 * 3000] * 8


def test_size_check_reads_the_newer_meta_page(file):
    """LMDB has two meta pages and updates them in turn; the older one knows of fewer pages."""
    page = file.read_bytes()[:8192]
    last_pages = [struct.unpack_from("<Q", page, offset + 136)[0] for offset in (0, 4096)]
    assert (max(last_pages) + 1) * 4096 == file.stat().st_size
