"""MOVi: damaged downloads."""

import contextlib
import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from object_centric_bench.datum import movi_source, tfrecord
from object_centric_bench.datum.lmdb import Reader
from object_centric_bench.datum.movi import MOVi, convert
from object_centric_bench.datum.record import DataError

from .examples import TRAIN, VALIDATION, scene, write_scenes


def edit_json(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def edit_scene(folder, change, index=1):
    scenes = [scene(folder, each) for each in range(4)]
    change(scenes[index])
    write_scenes(folder / TRAIN, scenes)


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 16
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-7])


def replace(folder, frame_number, picture):
    """Change a frame of the label maps."""
    encoded = cv2.imencode(".png", picture)[1].tobytes()
    edit_scene(folder, lambda features: features["segmentations"].__setitem__(frame_number, encoded))


def feature_dict(content):
    return content["featuresDict"]["features"]


def second(folder):
    return tfrecord.index(folder / TRAIN)[1][0]


BAD = {
    "cut short": (lambda f: cut(f / TRAIN), rf"{TRAIN}, byte \d+: the file is cut short"),
    "empty": (lambda f: (f / TRAIN).write_bytes(b""), rf"{TRAIN} is empty"),
    "length": (lambda f: flip(f / TRAIN, 2), rf"{TRAIN}, byte 0: checksum of the record's length"),
    "missing": (lambda f: (f / VALIDATION).unlink(), "has no file of the split validation.*holds dataset_info.json"),
    "two downloads": (lambda f: (f / TRAIN.replace("1", "9")).touch(), "several downloads: movi_d-train.*-of-00001, "),
    "two datasets": (lambda f: (f / TRAIN.replace("_d", "_e")).touch(), "several downloads: movi_d-.*movi_e-"),
    "shards": (
        lambda f: edit_json(f, "dataset_info.json", lambda c: c["splits"][0].update(shardLengths=["2", "2"])),
        "dataset_info.json lists 2 files of train, the names say 1",
    ),
    "shard length": (
        lambda f: edit_json(f, "dataset_info.json", lambda c: c["splits"][0].update(shardLengths=["5"])),
        f"{TRAIN} holds 4 scenes, dataset_info.json says 5",
    ),
    "info": (lambda f: (f / "dataset_info.json").write_text("{"), "dataset_info.json is no valid JSON"),
    "features": (
        lambda f: edit_json(f, "features.json", lambda c: [feature_dict(c).pop(k) for k in ("depth", "metadata")]),
        "features.json lists no depth, metadata/video_name, .*: is .* a MOVi dataset",
    ),
    "encoding": (
        lambda f: edit_json(
            f, "features.json",
            lambda c: feature_dict(c)["forward_flow"]["sequence"]["feature"]["tensor"].update(encoding="zlib"),
        ),
        "features.json: forward_flow must be uint16, not encoded",
    ),
}  # fmt: skip
LATE = {  # found while converting
    "data": (lambda f: flip(f / TRAIN, second(f) + 5000), r"{byte}: checksum of the record's \d+ bytes is wrong"),
    "no feature": (lambda f: edit_scene(f, lambda s: s.pop("depth")), "{byte}: the record has no feature 'depth'"),
    "no name": (lambda f: edit_scene(f, lambda s: s.update({"metadata/video_name": []})), "{byte}: .*_name' 0 names"),
    "no frames": (lambda f: edit_scene(f, lambda s: s["video"].clear()), "{byte}: 'video' has 0 frames"),
    "frames": (lambda f: edit_scene(f, lambda s: s["depth"].pop()), "{byte}: 'depth' has 23 frames, 'video' 24"),
    "kind": (lambda f: edit_scene(f, lambda s: s.update(video=np.arange(3))), "{byte}: 'video' has numbers or texts"),
    "text": (lambda f: edit_scene(f, lambda s: s.update(depth=[b"x"] * 24)), "{byte}, 'depth', frame 0 is no PNG"),
    "cut PNG": (
        lambda f: edit_scene(f, lambda s: s["video"].__setitem__(3, s["video"][3][:-30])),
        "{byte}, 'video', frame 3 is cut off",
    ),
    "bits": (
        lambda f: edit_scene(f, lambda s: s.update(depth=s["segmentations"])),
        "{byte}, 'depth', frame 0: a PNG of colour type 0 with 8 bits, expected are 0 and 16",
    ),
    "size": (
        lambda f: replace(f, 2, np.zeros((8, 9), np.uint8)),
        "{byte}: 'segmentations' has a frame of 9x8, 'video' of 32x32",
    ),
    "flow": (
        lambda f: edit_scene(f, lambda s: s.update(forward_flow=s["forward_flow"][1:])),
        "{byte}: 'forward_flow' has 49151 numbers, expected are 24 x 32 x 32 x 2",
    ),
    "flow's numbers": (
        lambda f: edit_scene(f, lambda s: s.update(backward_flow=s["backward_flow"] + 65535)),
        r"{byte}: 'backward_flow' has numbers beyond 0 \.\. 65535",
    ),
    "range": (
        lambda f: edit_scene(f, lambda s: s.update({"metadata/depth_range": np.float32([np.nan, 1])})),
        "{byte}: 'metadata/depth_range' is no minimum and maximum",
    ),
    "ids": (
        lambda f: edit_scene(f, lambda s: s.update(segmentations=scene(f, 3)["segmentations"])),
        r"{byte}: 'segmentations' has id \d+, there are 1 objects",
    ),
    "box frames": (
        lambda f: edit_scene(f, lambda s: s["instances/bbox_frames/ragged_flat_values"].__setitem__(0, 24)),
        r"{byte}: 'instances/bbox_frames/ragged_flat_values' has numbers beyond 0 \.\. 23",
    ),
    "boxes": (
        lambda f: edit_scene(
            f, lambda s: s.update({"instances/bboxes/ragged_flat_values": np.zeros(3, np.float32)})
        ),
        r"{byte}: 3 numbers of boxes for \d+ frames of \d+",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_sources_are_found_before_anything_is_written(movi_broken, tmp_path, case):
    damage, text = BAD[case]
    damage(movi_broken)
    with pytest.raises(DataError, match=text):
        convert(movi_broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", LATE)
def test_bad_scenes_are_named_and_can_be_left_out(movi_broken, tmp_path, case):
    damage, text = LATE[case]
    damage(movi_broken)
    where = f"{TRAIN}, byte {second(movi_broken)}"
    with pytest.raises(DataError, match=text.replace("{byte}", where)):
        convert(movi_broken, tmp_path / "out", split=("train",))
    assert not (tmp_path / "out/train.lmdb").exists()
    convert(movi_broken, tmp_path / "out", split=("train",), skip_bad=True)
    dataset = MOVi("train.lmdb", ["video"], data_dir=str(tmp_path / "out"))
    assert [dataset.source_id(index) for index in range(len(dataset))] == ["1006", "1001", "1002"]
    assert where in dataset.reader.header.attributes["left_out"][0]


@pytest.mark.parametrize("case", ["cut short", "length", "shard length"])
def test_damaged_files_can_be_left_out(movi_broken, tmp_path, case):
    BAD[case][0](movi_broken)
    if case == "length":  # of the first scene, so that nothing is left
        with pytest.raises(DataError, match=r"would hold no sample, all are bad:\n.*byte 0: checksum"):
            convert(movi_broken, tmp_path, split=("train",), skip_bad=True)
        return
    convert(movi_broken, tmp_path, split=("train",), skip_bad=True)
    header = Reader(tmp_path / "train.lmdb").header
    assert header.num_samples == (3 if case == "cut short" else 4) and len(header.attributes["left_out"]) == 1


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_mutated_scenes_give_data_errors_only(movi_sources, tmp_path_factory, data):
    """Changed bytes under a right checksum."""
    features = scene(movi_sources / "movi_d/32x32/1.0.0", 1)
    name = data.draw(st.sampled_from([*sorted(movi_source._Scene.small), "forward_flow"]))
    values = features[name]
    if data.draw(st.booleans()):
        features[name] = values[: data.draw(st.integers(0, len(values)))]
    elif isinstance(values, list):
        number = data.draw(st.integers(0, len(values) - 1))
        changed = bytearray(values[number])
        changed[data.draw(st.integers(0, min(60, len(changed) - 1)))] = data.draw(st.integers(0, 255))
        features[name] = [*values[:number], bytes(changed), *values[number + 1 :]]
    elif values.dtype == np.int64:
        values[data.draw(st.integers(0, len(values) - 1))] = data.draw(st.integers(-(2**63), 2**63 - 1))
    else:
        values[data.draw(st.integers(0, len(values) - 1))] = data.draw(st.floats(width=32))
    file = tmp_path_factory.getbasetemp() / "mutated.tfrecord"
    write_scenes(file, [features])
    with contextlib.suppress(DataError):
        movi_source.make_sample(movi_source.Item(file, *tfrecord.index(file)[0]))
