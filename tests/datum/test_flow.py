"""Optical flow: stored, measured, coloured."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from object_centric_bench.datum.flow import decode_flow, encode_flow, flow_picture, measure
from object_centric_bench.datum.record import DataError


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_flow_comes_back(seed, height, width):
    flow = np.random.default_rng(seed).integers(0, 65536, (2, height, width)).astype(np.uint16)
    planes = encode_flow(flow)
    assert planes.dtype == np.uint8 and planes.shape == (4, height, width)
    np.testing.assert_array_equal(decode_flow(planes, ""), flow)
    with pytest.raises(DataError, match="here: a frame of optical flow is none"):
        decode_flow(flow, "here")


def test_measure():
    """By hand: 0, 65535 and 13107 = 65535 / 5 between -2 and 3."""
    values = measure(np.array([0, 65535, 13107], np.uint16), np.float32([-2, 3]))
    assert values.tolist() == [-2, 3, -1] and values.dtype == torch.float32


def test_flow_pictures():
    """By hand: no motion is white; full colour from 2 percent of the diagonal on; opposite ways, opposite colours."""
    flow = torch.zeros(5, 2, 30, 40)  # diagonal 50, so 1 pixel is the most
    flow[1, 1], flow[2, 1], flow[3, 1], flow[4, 0] = 1, 9, -0.5, -1
    still, right, far, left, up = flow_picture(flow)[:, :, 7, 7].int()
    assert still.tolist() == [255, 255, 255]
    assert right.tolist() == far.tolist()
    for colour, expected in ((right, [0, 255, 255]), (left, [255, 128, 128]), (up, [128, 255, 0])):
        assert (colour - torch.tensor(expected)).abs().max() <= 1
    rows_first = flow_picture(flow.flip(1), legacy=True)[:, :, 7, 7].int()
    assert rows_first[1].tolist() == right.tolist()
    assert rows_first[3, 1] < left[1]  # stronger: 0.8 pixels, hypot(40, 2) / 50, are the most there
