"""Every case of the reference's transforms.npz against ours."""

import json

import numpy as np
import pytest
import torch

from object_centric_bench.datum.axis import PadTo, Slice, pad_to_longest
from object_centric_bench.datum.clip import FixedClip, SideClip
from object_centric_bench.datum.geometry import crop_box
from object_centric_bench.datum.loader import collate
from object_centric_bench.datum.transform import CenterCrop, Normalize, RandomFlip, Resize
from tests.conftest import GOLDEN

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
FLIPS = {-1: "horizontal", -2: "vertical"}


def cases():
    """All cases of the file; one of a kind that `RUN` lacks is an error, none is left out."""
    file = GOLDEN / "transforms.npz"
    return json.loads(str(np.load(file)["cases"])) if file.exists() else []


def ours(name):
    return "box" if name == "bbox" else name


def center_crop(arguments, sample):
    return CenterCrop(arguments["keys"], arguments["size"], arguments.get("value", 0))(sample)


def resize(arguments, sample):
    size = arguments["size"]
    options = dict(keep_aspect=True, max_size=arguments.get("max_size")) if isinstance(size, int) else {}
    return Resize(arguments["keys"], size, arguments["interp"], **options)(sample)


def normalize(arguments, sample):
    mean, std = (np.ravel(arguments[name]).tolist() for name in ("mean", "std"))
    return Normalize(arguments["keys"], mean, std)(sample)


def crop_boxes(arguments, sample):
    window = tuple(arguments[name] for name in "tlhw")
    return {"box": crop_box(sample["box"], (arguments["h0"], arguments["w0"]), window, arguments.get("value", 0))}


def flip(arguments, sample):
    (dim,) = arguments["dims"]
    assert arguments["p"] == 1.0
    return RandomFlip(arguments["keys"], 1.0, FLIPS[dim])(sample, np.random.default_rng(0))


def pad(arguments, sample):
    keys, axis, size = map(ours, arguments["keys"]), arguments["dim"], arguments["size"]
    return PadTo(list(keys), axis, size, arguments["value"], arguments.get("mode", "right"))(sample)


def slice_to(arguments, sample):
    clip = SideClip(arguments["size"], arguments["mode"])
    return Slice([ours(key) for key in arguments["keys"]], arguments["dim"], clip)(sample)


def slice_axis(arguments, sample):
    clip = FixedClip(arguments["start"], arguments["end"], arguments["step"])
    return Slice([ours(key) for key in arguments["keys"]], arguments["dim"], clip)(sample)


def pipeline(arguments, sample):
    """As in a validation run: transforms per sample, pictures normalised in the batch."""
    picture = "video" if "video" in sample else "image"
    sample = CenterCrop([picture, "segment"])(sample)
    sample = Resize([picture], arguments["resolution"])(sample)
    sample = Resize(["segment"], arguments["resolution"], "nearest-exact")(sample)
    if "box" in sample:
        sample = PadTo(["box"], 1, 21)(sample)
    batch = Normalize([picture], MEAN, STD)(collate([sample, sample]))
    return {key: entry[1] for key, entry in batch.items()}


def pad_batch(arguments, sample):
    (dim,) = arguments["dims"]
    return dict(zip(sample, pad_to_longest(list(sample.values()), dim), strict=True))


RUN = {
    "center crop": center_crop,
    "resize": resize,
    "normalize": normalize,
    "crop boxes": crop_boxes,
    "flip": flip,
    "flip (later version)": flip,
    "pad one axis": pad,
    "slice one axis to a size": slice_to,
    "slice one axis": slice_axis,
    "whole validation pipeline": pipeline,
    "pad a batch to its longest (later version)": pad_batch,
}


def corrected(case, name, stored):
    """The first version mirrored boxes without swapping their sides: swap them in what is stored."""
    if case["kind"] == "flip" and name == "bbox":
        order = {-1: [2, 1, 0, 3], -2: [0, 3, 2, 1]}[case["arguments"]["dims"][0]]
        return stored[..., order]
    return stored


@pytest.mark.parity
@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case['case']}-{case['kind']}")
def test_equals_the_reference(golden, case):
    arrays = np.load(golden / "transforms.npz")
    inputs = {ours(name): torch.from_numpy(arrays[f"{case['case']}.in.{name}"]) for name in case["inputs"]}
    before = {key: value.clone() for key, value in inputs.items()}
    if case["note"] == "already longer: unchanged":  # padding never hides that something does not fit
        arguments = case["arguments"]
        with pytest.raises(ValueError, match="'box' has 3 along axis 1, PadTo wants at most 2"):
            pad(arguments, inputs)
        cut = PadTo(["box"], arguments["dim"], arguments["size"], truncate=True)(inputs)
        np.testing.assert_array_equal(cut["box"], arrays[f"{case['case']}.out.bbox"][:, :2])
        return
    outputs = RUN[case["kind"]](case["arguments"], inputs)
    for name in case["outputs"]:
        expected = torch.from_numpy(corrected(case, name, arrays[f"{case['case']}.out.{name}"]))
        value = outputs[ours(name)]
        assert value.dtype == expected.dtype
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6 if value.is_floating_point() else 0)
    for key, value in before.items():
        assert (inputs[key] == value).all(), f"{key} was changed in place"
