"""Files and texts from outside run no code and break nothing; `benchmarks.fuzz` tries a hundred thousand of them."""

import ast
import contextlib
import io
import pickle
import struct

import lmdb
import msgpack
import numpy as np
import pytest
import torch
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz
from benchmarks.fuzz_targets import REFUSED, TARGETS, Target
from object_centric_bench import config
from object_centric_bench.datum import environment, pages
from object_centric_bench.datum import lmdb as store
from object_centric_bench.datum.lmdb import Header, Reader, header_value
from object_centric_bench.datum.record import LIST_CODE, DataError, inflate, seal
from object_centric_bench.datum.unpickle import unpickle
from object_centric_bench.learn import checkpoint
from object_centric_bench.learn.checkpoint import CheckpointError

from .conftest import REPOSITORY
from .datum.stores import raw

SOURCES = sorted([*(REPOSITORY / "object_centric_bench").rglob("*.py"), *REPOSITORY.glob("*.py")])
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "marshal.loads",
    "yaml.load", "yaml.unsafe_load", "shelve.open", "joblib.load", "dill.loads", "torch.hub.load", "pandas.read_pickle",
    "tarfile.open", "shutil.unpack_archive", "zipfile.ZipFile.extractall", "subprocess.getoutput",
}  # fmt: skip


# -------------------------------------------------------------------------------------------------------- no code runs


def calls(tree):
    """Yield the dotted name and the node of every call; the methods of unknown objects as `.name`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        yield (name if all(part.isidentifier() for part in name.split(".")) else f".{name.rpartition('.')[2]}"), node


def dangers(source):
    """Return what in a program may run code that a file or a text holds."""
    found = []
    for name, node in calls(ast.parse(source)):
        options = {each.arg: ast.unparse(each.value) for each in node.keywords}
        if name in FORBIDDEN or name.rpartition(".")[2] in ("extractall", "unpack_archive"):
            found.append(f"line {node.lineno}: {name}")
        if name == "torch.load" and options.get("weights_only") != "True":
            found.append(f"line {node.lineno}: torch.load without weights_only")
        if name == "np.load" and options.get("allow_pickle", "False") != "False":
            found.append(f"line {node.lineno}: np.load with pickles")
        if options.get("shell", "False") != "False" or options.get("trust_remote_code", "False") != "False":
            found.append(f"line {node.lineno}: {name} runs what it is given")
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_nothing_in_the_package_runs_code_from_files_or_texts(file):
    assert dangers(file.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)", "exec(text)", "pickle.load(file)", "pickle.loads(data)", "torch.load(file)", "yaml.load(file)",
        "torch.load(file, weights_only=False)", "os.system(text)", "subprocess.run(text, shell=True)",
        "archive.extractall(folder)", "np.load(file, allow_pickle=True)", "open_it(file).extractall()",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(line):
    assert len(dangers(f"def read(file):\n    return {line}")) == 1


# --------------------------------------------------------------------------------------------------------- fuzz targets


@pytest.fixture(scope="module")
def fuzzers(tmp_path_factory):
    return {name: fuzz.Fuzzer(name, 0, tmp_path_factory.mktemp("fuzz") / "made") for name in TARGETS}


@pytest.mark.parametrize("name", TARGETS)
def test_real_inputs_are_accepted(fuzzers, name):
    for number in range(len(fuzzers[name].seeds)):
        assert fuzzers[name].attempt(number), number


@pytest.mark.parametrize("name", TARGETS)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_comes_is_read_or_refused(fuzzers, name, data):
    """Inputs by hypothesis: bytes at random, and real ones with a part replaced. Trees of LMDB: see below."""
    fuzzer = fuzzers[name]
    content = data.draw(st.sampled_from(fuzzer.seeds))
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 8)))
    content = content[:start] + data.draw(st.binary(max_size=12)) + content[end:]
    content = data.draw(st.sampled_from([content, content[:start], content[start:]]))
    with contextlib.suppress(*REFUSED):
        fuzzer.target.attempt(content, fuzzer.folder)


def test_the_benchmark_counts_crashes_hangs_and_foreign_errors(tmp_path, monkeypatch):
    def attempt(data, folder):
        number = data[0]
        if number == 3:
            raise KeyError("foreign")
        if number == 5:
            np.zeros(1 << 34, np.uint8)[::4096] = 1
        if number == 6:
            raise DataError("refused")
        while number == 7:
            pass
        if number == 8:
            import ctypes

            ctypes.string_at(0)

    monkeypatch.setitem(TARGETS, "bad", Target(lambda folder: [], attempt))
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    fuzzer = fuzz.Fuzzer("bad", 0, tmp_path / "made")
    fuzzer.input = lambda number: bytes([number])
    counts = fuzzer.run(10)
    assert (counts["accepted"], counts["refused"], counts["findings"]) == (5, 1, 4)
    found = " ".join(fuzzer.findings)
    assert "SIGPROF" in found and "SIGSEGV" in found and "KeyError" in found and "MemoryError" in found


# ------------------------------------------------------------------------------------ what it found, and stays mended


def test_a_stated_size_is_not_taken_at_its_word():
    """zstd makes room for the size that a frame states, whatever limit it is given."""
    honest = zstandard.ZstdCompressor().compress(b"x" * 100)
    assert inflate(honest) == b"x" * 100
    huge = b"\x28\xb5\x2f\xfd" + bytes([0b11100000]) + struct.pack("<Q", 1 << 40) + b"\x01\x00\x00"
    assert zstandard.frame_content_size(huge) == 1 << 40
    with pytest.raises(DataError, match=r"an entry of 1099511627776 bytes; at most"):
        inflate(huge)


def test_a_pickle_may_not_make_room_for_objects_that_it_does_not_have():
    with pytest.raises(DataError, match=r"object number 268435455 of 9 bytes"):
        unpickle(b"\x80\x04N" + b"r\xff\xff\xff\x0f.", "here")


def test_lists_that_double_thirty_times_are_decoded_at_once():
    value = [1]
    for _ in range(60):
        value = [value, value]
    decoded = unpickle(pickle.dumps(value, 4), "here")
    assert decoded[0] is decoded[1] and decoded[0][0] is decoded[1][1]


def test_tuples_that_take_forever_to_hash_are_refused():
    value = (1,)
    for _ in range(60):
        value = (value, value)
    content = pickle.dumps([value], 4)  # as a key of a dict, it would not end
    with pytest.raises(DataError, match="tuples that stand in several places"):
        unpickle(content, "here")
    with pytest.raises(DataError, match="sets"):
        unpickle(pickle.dumps({1, 2}, 4), "here")


@pytest.mark.parametrize(
    "change",
    [{"num_samples": "3"}, {"num_samples": -1}, {"num_samples": 1 << 62}, {"max_segment": None}, {"num_values": 1.0}],
)
def test_headers_with_numbers_that_are_none(tmp_path, change):
    fields = {"magic": store.MAGIC, "version": 1, "dataset": "toy", "num_samples": 1, "max_segment": 0, "num_values": 1}
    raw(tmp_path / "a.lmdb", {store.HEADER_KEY: seal(msgpack.packb(fields | change)), b"00000000": b"1234"})
    with pytest.raises(DataError, match="unreadable header"):
        Reader(tmp_path / "a.lmdb")


@pytest.mark.parametrize("count", [1 << 40, -1, "many"])
def test_lists_longer_than_the_file(tmp_path, count):
    value = seal(msgpack.packb({"video": msgpack.ExtType(LIST_CODE, msgpack.packb(count))}))
    raw(tmp_path / "a.lmdb", dict([header_value(Header("toy", 1, 0, {}, 1)), (b"00000000", value)]))
    with pytest.raises(DataError, match=rf"'video' is a list of {count} elements"):
        Reader(tmp_path / "a.lmdb").read(0)


def test_a_record_that_is_no_messagepack(tmp_path):
    raw(tmp_path / "a.lmdb", {store.HEADER_KEY: seal(b"\xc1")})
    with pytest.raises(DataError, match=r"a.lmdb, header: .*make it again"):
        Reader(tmp_path / "a.lmdb")


def tree(tmp_path):
    """Return a file of ours with a branch, and where its root and its first leaf begin."""
    file = tmp_path / "a.lmdb"
    pairs = {b"%08d" % index: seal(msgpack.packb({"id": "x" * 90})) for index in range(200)}
    raw(file, dict([header_value(Header("toy", 200, 0, {}, 200))]) | pairs)
    data = bytearray(file.read_bytes())
    meta = pages.newest(*(pages.read_meta(bytes(data[at : at + 4096])) for at in (0, 4096)))
    root = meta.root * 4096
    (place,) = struct.unpack_from("<H", data, root + 16)
    (child,) = struct.unpack_from("<I", data, root + place)
    assert len(Reader(file)) == 200
    return file, data, root, child * 4096


@pytest.mark.parametrize(
    "page, offset, form, value, text",
    [
        ("root", 0, "<Q", 77, "wrong head"),
        ("root", 10, "<H", 3, "wrong head"),
        ("root", 12, "<H", 18, "leads to a single one"),
        ("root", 16, "<H", 4094, "node outside"),
        ("leaf", 12, "<H", 60000, "wrong head"),
        ("leaf", 16, "<H", 65534, "node outside"),
        ("root node", 0, "<I", 1 << 30, "out of place"),
        ("root node", 0, "<I", 0, "out of place"),
        ("leaf node", 0, "<I", 1 << 20, "too long"),
        ("leaf node", 4, "<H", 1, "beyond the file's end|too long"),
        ("leaf node", 4, "<H", 4, "too long"),
        ("leaf node", 6, "<H", 60000, "too long"),
    ],
)
def test_a_tree_that_leads_out_of_the_file(tmp_path, page, offset, form, value, text):
    """LMDB follows such numbers: before this was checked, the process ended by SIGBUS or SIGSEGV."""
    file, data, root, leaf = tree(tmp_path)
    start = root if page.startswith("root") else leaf
    if page.endswith("node"):
        start += struct.unpack_from("<H", data, start + 16)[0]
    struct.pack_into(form, data, start + offset, value)
    environment._close_all()
    file.write_bytes(data)
    with pytest.raises(DataError, match=rf"a.lmdb is damaged: .*({text}).*download it again"):
        Reader(file)


def test_a_tree_that_bites_its_tail(tmp_path):
    file, data, root, _ = tree(tmp_path)
    (place,) = struct.unpack_from("<H", data, root + 16)
    struct.pack_into("<I", data, root + place, root // 4096)
    environment._close_all()
    file.write_bytes(data)
    with pytest.raises(DataError, match="out of place"):
        Reader(file)


def test_what_lmdb_says_itself_is_a_data_error(tmp_path, monkeypatch):
    file, *_ = tree(tmp_path)
    reader = Reader(file)

    class Transaction:
        def get(self, key):
            raise lmdb.CorruptedError("mdb_get")

    with pytest.raises(DataError, match="the file is damaged"):
        reader._value(Transaction(), b"00000000", "here")


@pytest.mark.parametrize("text", ["{[]: 1}", "{1, 2}", "b'x'", "1j", "...", "{(1, 2): 3}", "[1, {2: 3}]"])
def test_literals_that_no_config_can_hold(text):
    with pytest.raises(ValueError, match=r"cannot stand in a config|keys are text|no Python literal"):
        value = config.parse(text, None)
        if value == text:  # names are texts where nothing stands at present
            raise ValueError("no Python literal")


def test_tuples_become_lists_at_all_depths():
    assert config.parse("(1, [2, (3,)], {'a': (4,)})", None) == [1, [2, [3]], {"a": [4]}]


def test_reading_a_checkpoint_makes_no_room_for_what_it_has_not(tmp_path):
    file = tmp_path / "a.pth"
    torch.save({"weight": torch.ones(3)}, file, _use_new_zipfile_serialization=False)
    with checkpoint._Bounded(io.FileIO(file)) as opened:
        assert opened.read(1 << 62) == file.read_bytes()
    assert torch.equal(checkpoint.read(file)[0]["weight"], torch.ones(3))
    file.write_bytes(b"\x80\x02X\xff\xff\xff\x7f.")
    with pytest.raises(CheckpointError, match="plain tensors"):
        checkpoint.read(file)
