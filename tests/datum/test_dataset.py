"""What the datasets share: decoding, renumbering, checks."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from object_centric_bench.datum.dataset import decode_image, renumber
from object_centric_bench.datum.lmdb import Header, header_value
from object_centric_bench.datum.record import DataError, pack
from object_centric_bench.datum.shapes import Shapes
from object_centric_bench.registry import ConfigError, build

from .stores import raw, write

RNG = np.random.default_rng(0)


def encode(array, extension=".png"):
    return cv2.imencode(extension, array)[1].tobytes()


def test_pictures_become_rgb():
    bgra = np.zeros((4, 6, 4), np.uint8)
    bgra[..., 2], bgra[..., 3] = 200, 7  # red, nearly transparent
    rgb = decode_image(encode(bgra))
    assert rgb.shape == (4, 6, 3) and (rgb == [200, 0, 0]).all()
    assert (decode_image(encode(np.full((4, 6), 90, np.uint8))) == 90).all()
    assert decode_image(encode(np.full((4, 6), 90, np.uint8), ".jpg")).shape == (4, 6, 3)
    assert decode_image(b"") is None and decode_image(b"text") is None


def test_the_orientation_in_exif_is_ignored():
    """Label maps are not rotated, so neither are pictures."""
    jpeg = encode(np.zeros((4, 6, 3), np.uint8), ".jpg")
    tiff = b"MM\x00*\x00\x00\x00\x08" + b"\x00\x01" + b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00" + bytes(4)
    body = b"Exif\x00\x00" + tiff
    turned = jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (6, 4, 3)
    assert decode_image(turned).shape == (4, 6, 3)


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([np.uint8, np.int32]).flatmap(
        lambda dtype: arrays.arrays(
            dtype, arrays.array_shapes(min_dims=2, max_dims=3, max_side=10), elements=st.integers(0, 12)
        )
    ),
    st.lists(st.booleans(), min_size=12, max_size=12) | st.none(),
    st.booleans(),
)
def test_renumbering(segment, keep, is_view):
    segment = segment[..., ::2] if is_view else segment  # such as a crop
    result, kept = renumber(torch.from_numpy(segment), None if keep is None else torch.tensor(keep))
    left = [i for i in range(1, 13) if (segment == i).any() and (keep is None or keep[i - 1])]
    expected = np.zeros_like(segment)
    for new, old in enumerate(left, 1):
        expected[segment == old] = new
    np.testing.assert_array_equal(result, expected)
    assert (torch.nonzero(kept).flatten() + 1).tolist() == left
    assert len(kept) == (segment.max() if keep is None else 12)
    assert result.numpy().dtype == segment.dtype


def test_renumbering_all_ids_of_8_bits():
    segment = torch.arange(256, dtype=torch.uint8).flip(0).reshape(16, 16)
    keep = torch.arange(1, 256) % 2 == 1
    assert torch.equal(renumber(segment)[0], segment)
    assert torch.equal(renumber(segment, keep)[0], torch.where(segment % 2 == 1, segment // 2 + 1, 0).to(torch.uint8))


def test_background_stays_zero_even_where_it_does_not_occur():
    """The reference ranks without anchoring: the first object becomes 0, and foreground scores then ignore it."""
    result, _ = renumber(torch.tensor([[3, 3, 7, 7]], dtype=torch.uint8))
    assert result.tolist() == [[1, 1, 2, 2]] and result.dtype == torch.uint8


def test_renumbering_of_unknown_ids_is_refused():
    with pytest.raises(DataError, match="segment 5"):
        renumber(torch.tensor([[5]], dtype=torch.uint8), torch.tensor([True]))


def toy(folder, **change):
    record = {"image": encode(np.zeros((8, 8, 3), np.uint8)), "segment": np.eye(8, dtype=np.uint8), "source_id": "x"}
    record.update(change)
    packed = pack({key: value for key, value in record.items() if value is not None})
    write(folder / "a.lmdb", "shapes", [packed], force=True)
    return Shapes("a.lmdb", ["image", "segment"], data_dir=str(folder))


def test_samples(tmp_path):
    dataset = toy(tmp_path)
    sample = dataset.sample(0, RNG)
    assert sample["image"].shape == (3, 8, 8) and sample["image"].dtype == sample["segment"].dtype == torch.uint8
    assert dataset.source_id(0) == "x" and sample["index"] == 0 and len(dataset) == 1


def test_damaged_samples_are_named(tmp_path):
    with pytest.raises(DataError, match=r"a.lmdb, sample 0: the picture cannot be decoded"):
        toy(tmp_path, image=b"no picture").sample(0, RNG)
    with pytest.raises(DataError, match=r"no 'segment'; its entries are: image, source_id"):
        toy(tmp_path, segment=None).sample(0, RNG)


def test_empty_file(tmp_path):
    raw(tmp_path / "a.lmdb", dict([header_value(Header("shapes", 0, 0))]))
    with pytest.raises(DataError, match="holds no samples"):
        Shapes("a.lmdb", ["image"], data_dir=str(tmp_path))


def test_built_from_a_config(tmp_path):
    toy(tmp_path)
    crop = dict(type="CenterCrop", keys=["image"], size=4)
    cfg = dict(type="Shapes", file="a.lmdb", keys=["image"], transforms=[crop])
    assert build(cfg, "dataset.train", data_dir=str(tmp_path)).sample(0, RNG)["image"].shape == (3, 4, 4)
    with pytest.raises(ConfigError, match=r"dataset.train: .*no such file; make it with: python convert.py shapes"):
        build(cfg, "dataset.train", data_dir=str(tmp_path / "elsewhere"))


def test_wide_ids_are_int32_for_the_whole_store(tmp_path):
    wide = np.zeros((8, 8), np.uint16)
    wide[0, 0] = 65535
    assert toy(tmp_path, segment=wide).sample(0, RNG)["segment"].dtype == torch.int32
    narrow = np.zeros((8, 8), np.uint16)
    assert toy(tmp_path, segment=narrow).sample(0, RNG)["segment"].dtype == torch.uint8
