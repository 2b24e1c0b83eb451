"""TFRecord files and tf.train.Example messages: what TensorFlow Datasets wrote, what this file writes, and garbage."""

import contextlib

import numpy as np
import pytest
from hypothesis import example as with_example
from hypothesis import given, settings
from hypothesis import strategies as st

from object_centric_bench.datum import tfrecord
from object_centric_bench.datum.record import DataError

from .examples import example, feature, field, frame, varints

INT64 = st.integers(-(2**63), 2**63 - 1)
NUMBERS = INT64 | st.integers(0, 200) | st.integers(0, 65535)
FEATURES = st.dictionaries(
    st.text(max_size=8),
    st.lists(st.binary(max_size=20), max_size=5)
    | st.lists(NUMBERS, max_size=30).map(lambda values: np.array(values, np.int64))
    | st.lists(st.floats(width=32, allow_nan=False), max_size=30).map(lambda values: np.array(values, np.float32)),
    max_size=6,
)


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        if isinstance(values, list):
            assert ours[name] == values
        else:
            assert ours[name].dtype == values.dtype
            np.testing.assert_array_equal(ours[name], values)


@pytest.fixture(scope="module")
def official(raw):
    return raw / "movi" / "movi_d" / "32x32" / "1.0.0" / "movi_d-train.tfrecord-00000-of-00001"


@pytest.fixture
def small(tmp_path):
    """Three records: 5, 0 and 300 bytes."""
    file = tmp_path / "small.tfrecord"
    file.write_bytes(b"".join(frame(data) for data in (b"first", b"", bytes(range(250)) + b"x" * 50)))
    return file


# ------------------------------------------------------------------------------------------------------------- files


def test_a_file_of_tensorflow_datasets(official):
    records = tfrecord.index(official)
    assert len(records) == 4 and records[0][0] == 0
    offset, length = records[-1]
    assert offset + length + 16 == official.stat().st_size
    scene = tfrecord.parse(tfrecord.read(official, *records[0]))
    assert scene["metadata/video_name"] == [b"1006"] and len(scene["video"]) == 24
    assert scene["backward_flow"].shape == (24 * 32 * 32 * 2,) and scene["backward_flow"].dtype == np.int64
    assert scene["metadata/depth_range"].dtype == np.float32


def test_records_of_all_lengths(small):
    records = tfrecord.index(small)
    assert records == [(0, 5), (21, 0), (37, 300)]
    assert [tfrecord.read(small, *record)[:5] for record in records] == [b"first", b"", bytes(range(5))]


def test_every_changed_byte_is_noticed(small):
    whole = small.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        small.write_bytes(changed)
        start = max(offset for offset in (0, 21, 37) if offset <= position)
        with pytest.raises(DataError, match=rf"small.tfrecord, byte {start}: checksum of the record's"):
            [tfrecord.read(small, *record) for record in tfrecord.index(small)]


def test_every_missing_end_is_noticed(small):
    whole = small.read_bytes()
    for length in range(len(whole)):
        small.write_bytes(whole[:length])
        if length in (21, 37):
            assert tfrecord.index(small)
            continue
        with pytest.raises(DataError, match=r"small.tfrecord(, byte (0|21|37): the file is cut short| is empty)"):
            tfrecord.index(small)


def test_changes_after_listing_are_noticed(small):
    whole = small.read_bytes()
    small.write_bytes(whole[:-10])
    with pytest.raises(DataError, match=r"byte 37: the file is cut short, 294 bytes of 300"):
        tfrecord.read(small, 37, 300)
    small.write_bytes(frame(b"other") + whole)
    with pytest.raises(DataError, match=r"byte 21: the record has 5 bytes, not 0; has it changed"):
        tfrecord.read(small, 21, 0)
    small.unlink()
    for call in (tfrecord.index, lambda file: tfrecord.read(file, 0, 5)):
        with pytest.raises(DataError, match=r"small.tfrecord cannot be read: No such file"):
            call(small)


def test_absurd_lengths(small, monkeypatch):
    monkeypatch.setattr(tfrecord, "MAX_RECORD", 299)
    with pytest.raises(DataError, match="byte 37: a record of 300 bytes; at most 299 are read"):
        tfrecord.index(small)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_random_files_give_data_errors_only(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "random.tfrecord"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"random\.tfrecord"):
        tfrecord.index(file)


# ---------------------------------------------------------------------------------------------------------- messages


@settings(deadline=None)
@given(FEATURES, st.booleans())
def test_messages_come_back(features, packed):
    features = {name: values for name, values in features.items() if len(values)}
    same(tfrecord.parse(example(features, packed)), features)
    some = sorted(features)[::2]
    same(tfrecord.parse(example(features, packed), some), {name: features[name] for name in some})


def test_empty_lists():
    parsed = tfrecord.parse(example({"a": [], "b": np.empty(0, np.float32), "c": np.empty(0, np.int64)}))
    same(parsed, {"a": [], "b": np.empty(0, np.float32), "c": np.empty(0, np.int64)})
    no_kind = field(1, field(1, field(1, b"a") + field(2, b"")))
    assert tfrecord.parse(no_kind) == {"a": []} and tfrecord.parse(b"") == {}


def test_lists_in_pieces_and_unknown_fields():
    """Protocol buffers may be written in pieces: packed and single numbers mixed, fields of later versions between."""
    unknown = b"\x98\x06\x07" + b"\x91\x01" + bytes(8) + b"\xa5\x01" + bytes(4) + field(30, b"new")
    integers = field(3, field(1, varints([1, 2])) + unknown) + field(
        3, b"\x08\x03" + field(1, varints([-4])) + b"\x08\x05"
    )
    floats = field(2, b"\x0d\x00\x00\x80\x3f" + field(1, np.array([2, 3], "<f4").tobytes()))
    replaced = feature([b"old"]) + feature(np.array([7]))
    entries = [
        unknown + field(2, value) + field(1, name) + unknown
        for name, value in ((b"i", integers), (b"f", floats), (b"r", replaced), (b"i", unknown + integers))
    ]
    message = unknown + field(1, unknown + b"".join(field(1, entry) for entry in entries)) + unknown
    expected = {"i": np.array([1, 2, 3, -4, 5]), "f": np.float32([1, 2, 3]), "r": np.array([7])}
    same(tfrecord.parse(message), expected)


@settings(deadline=None)
@given(st.lists(NUMBERS, max_size=60), st.integers(10, 40))
@with_example([-1] * 5, 10)
def test_numbers_across_blocks(values, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfrecord, "BLOCK", block)
        assert tfrecord.decode_varints(varints(values)).tolist() == values


def test_numbers_of_one_length_and_mixed():
    """As fast paths see them: 1 byte each, 3 bytes each, all lengths."""
    for values in (np.arange(128).repeat(2000), np.arange(16384, 65536), 1 << np.arange(63), -(1 << np.arange(63))):
        np.testing.assert_array_equal(tfrecord.decode_varints(varints(values)), values)


@pytest.mark.parametrize(
    "data", [b"\x80", b"\x01\x80", b"\xff" * 10 + b"\x01", b"\xff" * 70000, bytes(70000) + b"\x80"], ids=len
)
def test_damaged_numbers(data):
    with pytest.raises(DataError, match="damaged integers"):
        tfrecord.decode_varints(data)


DAMAGED = {
    "group": b"\x0b\x0c",
    "wire type": b"\x0f",
    "field 0": b"\x02\x00",
    "length": b"\x0a\x05abc",
    "length of 2^63": b"\x0a" + varints([-(2**63)]),
    "number for a message": b"\x08\x01",
    "endless number": b"\x80" * 11,
    "floats": field(1, field(1, field(1, b"a") + field(2, field(2, field(1, b"abc"))))),
    "integer as float": field(1, field(1, field(1, b"a") + field(2, field(3, b"\x0d0000")))),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_messages(case):
    with pytest.raises(DataError, match=r"some.file, byte 7.*download"):
        tfrecord.parse(DAMAGED[case], where="some.file, byte 7")


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=80))
def test_random_messages_give_data_errors_only(data):
    for call in (tfrecord.parse, tfrecord.decode_varints):
        with contextlib.suppress(DataError):
            call(data)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_mutated_messages_give_data_errors_only(official, data):
    message = bytearray(tfrecord.read(official, *tfrecord.index(official)[3]))
    whole = bytearray(example({"a": [b"x" * 50], "b": np.arange(50), "c": np.arange(50, dtype=np.float32)}))
    for target in (whole, message):
        for _ in range(data.draw(st.integers(1, 4))):
            target[data.draw(st.integers(0, len(target) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(DataError):
            tfrecord.parse(bytes(target))
