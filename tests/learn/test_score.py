"""Adjusted mutual information, boxes, J and F against independent implementations."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.metrics.cluster import expected_mutual_information as expected_by_scikit_learn

from object_centric_bench.learn import boundary, information
from object_centric_bench.learn.boundary import boundaries, boundary_accuracy, dilate, region_and_boundary
from object_centric_bench.learn.contingency import contingency, count_pairs
from object_centric_bench.learn.information import adjusted_mutual_information, expected_mutual_information
from object_centric_bench.learn.score import Evidence, correct_localization
from tests.learn.test_metric import PROPERTY, label_pairs


@PROPERTY
@given(label_pairs())
def test_ami_equals_scikit_learn(pair):
    prediction, target = pair
    table = contingency(prediction, target)
    value, valid = adjusted_mutual_information(table)
    value_fg, valid_fg = adjusted_mutual_information(table, skip_background=True)
    assert valid.all()
    for index in range(len(target)):
        expected = adjusted_mutual_info_score(target[index], prediction[index])
        if not same_partition(target[index], prediction[index]):
            assert value[index].item() == pytest.approx(expected, abs=1e-9)
        front = target[index] > 0
        assert valid_fg[index] == front.any()
        if front.any() and not same_partition(target[index][front], prediction[index][front]):
            expected = adjusted_mutual_info_score(target[index][front], prediction[index][front])
            assert value_fg[index].item() == pytest.approx(expected, abs=1e-9)


def same_partition(first, second):
    """Whether two maps are the same up to names: scikit-learn may divide 0 by 0 there, the limit is 1."""
    pairs = set(zip(first.tolist(), second.tolist(), strict=True))
    return len(pairs) == len(set(first.tolist())) == len(set(second.tolist()))


def test_ami_of_equal_partitions_is_one():
    maps = torch.tensor([[0, 0, 1, 2], [0, 1, 2, 3], [4, 4, 4, 4]])
    value, valid = adjusted_mutual_information(contingency((maps + 2) % 7, maps))
    assert value.tolist() == [1, 1, 1]
    assert valid.all()


@pytest.mark.parametrize("terms", [2**22, 3000])
def test_expected_information_of_a_picture(monkeypatch, terms):
    """All terms against those within 9 standard deviations, at 256 x 256; in pieces too."""
    monkeypatch.setattr(information, "TERMS", terms)
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.ones(7), 3), generator.dirichlet(np.ones(9) / 2, 3)
    tables = [generator.multinomial(65536, np.outer(a, b).ravel()).reshape(7, 9) for a, b in zip(*shares, strict=True)]
    table = torch.from_numpy(np.stack(tables))
    found = expected_mutual_information(table.sum(2), table.sum(1), table.sum((1, 2)))
    expected = [expected_by_scikit_learn(each, 65536) for each in tables]
    assert found.tolist() == pytest.approx(expected, rel=1e-7)


def evidence_of(prediction, target, valid=None):
    rows, columns = int(prediction.max()) + 1, int(target.max()) + 1
    return Evidence(prediction, target, rows, columns, valid, framewise=True)


def box_of(mask):
    rows, columns = ndimage.find_objects(mask.astype(int))[0]
    return rows.start, columns.start, rows.stop, columns.stop


def test_corloc_equals_boxes_from_scipy():
    generator = np.random.default_rng(0)
    hits = []
    for _ in range(40):
        # few coarse cells that are not 0, so that boxes of a prediction now and then fit those of an object
        cells = generator.integers(0, 6, (2, 1, 2, 4, 4)) * (generator.random((2, 1, 2, 4, 4)) < 0.1)
        prediction, target = cells.repeat(3, 3).repeat(3, 4)
        valid = generator.random((1, 2, 12, 12)) < 0.9
        maps = torch.from_numpy(prediction), torch.from_numpy(target), torch.from_numpy(valid)
        value, there = correct_localization(evidence_of(*maps))
        for frame in range(2):
            counted = valid[0, frame]
            boxes = [
                [box_of((ids == each) & counted) for each in range(first, 6) if ((ids == each) & counted).any()]
                for ids, first in ((prediction[0, frame], 0), (target[0, frame], 1))
            ]
            best = max((overlap(a, b) for a in boxes[0] for b in boxes[1]), default=0)
            assert there[frame] == bool(boxes[1])
            assert value[frame] == (best >= 0.5)
            hits.append(best >= 0.5)
    assert 0 < sum(hits) < len(hits)


def overlap(a, b):
    tall, wide = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(tall, 0) * max(wide, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize(("wide", "hit"), [(2, 1), (3, 0)])
def test_corloc_begins_at_one_half(wide, hit):
    """A box of 1 pixel in one of 2 has IoU 1/2, in one of 3 less."""
    target = torch.zeros(1, 1, 1, 8, dtype=torch.long)
    target[..., 0] = 1
    prediction = torch.zeros_like(target)
    prediction[..., :wide] = 1
    value, there = correct_localization(evidence_of(prediction, target))
    assert (value.item(), there.item()) == (hit, True)
    assert not correct_localization(evidence_of(prediction, torch.zeros_like(target)))[1].item()


# -------------------------------------------------------------------------------------- J and F, in plain NumPy and cv2


def outline(mask):
    """Boundary pixels of a bool map, the definition of the Berkeley benchmark in three differences."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    edge = (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1])
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return edge


def disk(radius):
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x**2 + y**2 <= radius**2).astype(np.uint8)


def f_of(found, true):
    """F of two bool maps."""
    radius = int(np.ceil(0.008 * np.hypot(*found.shape)))
    a, b = outline(found), outline(true)
    near_a, near_b = (cv2.dilate(each.astype(np.uint8), disk(radius)).astype(bool) for each in (a, b))
    precision = (a & near_b).sum() / a.sum() if a.any() else 1.0
    recall = (b & near_a).sum() / b.sum() if b.any() else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def j_of(found, true):
    union = (found | true).sum()
    return (found & true).sum() / union if union else 1.0


def davis(prediction, target, valid):
    """Return J and F of every object of one video (t h w), as the challenge's code for unsupervised methods does."""
    objects = [each for each in np.unique(target[valid]) if each > 0]
    segments = [np.where(valid, prediction, -1) == each for each in np.unique(prediction[valid])]
    segments += [np.zeros(target.shape, bool)] * (len(objects) - len(segments))
    truths = [np.where(valid, target, -1) == each for each in objects]
    scores = np.array(
        [
            [[np.mean([f(*pair) for pair in zip(a, b, strict=True)]) for b in truths] for a in segments]
            for f in (j_of, f_of)
        ]
    )
    chosen = linear_sum_assignment(-scores.mean(0))
    return scores[0][chosen], scores[1][chosen]


def blobs(generator, shape, count):
    """Return maps (t h w) of a few moving blobs, so that boundaries are lines and objects come and go."""
    noise = generator.standard_normal((count, *shape))
    smooth = np.stack([ndimage.gaussian_filter(each, (0.7, 3, 3)) for each in noise])
    return smooth.argmax(0)


@pytest.mark.parametrize(("segments", "objects", "side"), [(5, 4, 40), (2, 6, 40), (7, 3, 130)])
def test_j_and_f_equal_plain_loops(segments, objects, side):
    generator = np.random.default_rng(segments)
    prediction = np.stack([blobs(generator, (3, side, side - 7), segments) for _ in range(2)])
    target = np.stack([blobs(generator, (3, side, side - 7), objects + 1) for _ in range(2)])
    prediction[0] = np.where(generator.random(target[0].shape) < 0.9, target[0], prediction[0])  # one that is good
    target[1, 1][target[1, 1] == 1] = 0  # an object that is away in one frame
    valid = ndimage.gaussian_filter(generator.standard_normal(target.shape), (0, 0, 4, 4)) > -0.1
    rows, columns = prediction.max() + 1, target.max() + 1
    maps = [torch.from_numpy(each) for each in (prediction, target, valid)]
    table = count_pairs(*(each.reshape(6, -1) for each in maps[:2]), rows, columns, maps[2].reshape(6, -1))
    found = region_and_boundary(maps[0], maps[1], table.unflatten(0, (2, 3)), maps[2])
    for video in range(2):
        j, f = davis(prediction[video], target[video], valid[video])
        assert found["jf"][1][video] == len(j)
        assert found["j"][0][video].item() == pytest.approx(j.mean(), abs=1e-9)
        assert found["f"][0][video].item() == pytest.approx(f.mean(), abs=1e-9)
        assert found["jf"][0][video].item() == pytest.approx((j.mean() + f.mean()) / 2, abs=1e-9)


def test_j_and_f_of_perfect_masks_and_of_no_objects():
    target = torch.zeros(2, 3, 16, 16, dtype=torch.long)
    target[0, :, 2:8, 3:9] = 1
    target[0, :2, 10:14, 3:9] = 2
    evidence = evidence_of((target + 1) % 3, target)
    for value, weight in evidence.boundaries.values():
        assert value[0] == 1
        assert weight.tolist() == [2, 0]


def test_empty_segments_do_not_stand_in_for_objects_while_there_are_others():
    """An object of one frame in eight: an unused slot would have J = 7/8; it must get one of the slots in use."""
    target = torch.zeros(1, 8, 6, 6, dtype=torch.long)
    target[0, 0, :3, :3] = 1
    prediction = torch.zeros_like(target)
    prediction[0, :, :, 3:] = 2  # slot 1 is never used
    evidence = evidence_of(prediction, target)
    assert evidence.boundaries["j"][0].item() == pytest.approx(1 / 4 / 2 / 8 * 4, abs=1e-9)  # 9 of 18 pixels once


@settings(deadline=None, max_examples=20, database=None)
@given(st.integers(0, 9), st.integers(3, 24), st.integers(3, 24), st.integers(0, 2**20))
def test_dilation_equals_opencv(radius, height, width, seed):
    generator = np.random.default_rng(seed)
    maps = generator.random((2, height, width)) < 0.1
    found = dilate(torch.from_numpy(maps).long() << 5, radius)
    for each, mask in zip(found.numpy(), maps, strict=True):
        assert np.array_equal(each == 32, cv2.dilate(mask.astype(np.uint8), disk(radius)).astype(bool))
        assert set(np.unique(each)) <= {0, 32}


def test_more_segments_than_bits(monkeypatch):
    """The same F, whether segments share a word or are spread over several, and whether pieces are small."""
    generator = np.random.default_rng(3)
    prediction, target = (torch.from_numpy(blobs(generator, (4, 30, 30), 9)) for _ in range(2))
    whole = boundary_accuracy(prediction, target, None, 9, 9)
    monkeypatch.setattr(boundary, "WORD", 4)
    monkeypatch.setattr(boundary, "ENTRIES", 1)
    assert torch.equal(boundary_accuracy(prediction, target, None, 9, 9), whole)
    edge = boundaries(target, None, first=4)
    assert edge.max() < 2**4
    for bit in range(4):
        for frame in range(4):
            assert np.array_equal(
                (edge[frame].numpy() >> bit & 1).astype(bool), outline(target[frame].numpy() == 4 + bit)
            )
