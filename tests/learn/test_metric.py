"""Scores of segmentations. Unless said otherwise numbers come from running published implementations once."""

import functools
import math
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from object_centric_bench.learn import contingency as contingency_module
from object_centric_bench.learn.contingency import contingency
from object_centric_bench.learn.metric import (
    SCORES,
    Average,
    Segmentation,
    adjusted_rand_index,
    iou,
    mean_best_overlap,
    mean_iou,
)
from object_centric_bench.registry import ConfigError, build
from tests.conftest import require

T = "0011/0011/0022/0022"
M = "001122/011122/003332/000330"
# truth, prediction, then ari, ari_fg, mbo, miou, mbo_fg, miou_fg; None = not valid
EXAMPLES = {
    "A": (T, "3300/3300/3311/3311", 1, 1, 1, 1, 1, 1),
    "B": (T, "0111/0011/0022/0002", 0.608696, 0.774194, 0.775926, 0.775926, 0.775000, 0.775000),
    "C": (T, "0011/0011/0011/0011", 0.727273, 0, 0.666667, 0.5, 0.5, 0.25),
    "D": (T, "0311/0311/0322/0322", 0.666667, 1, 0.833333, 0.833333, 1, 1),
    "E": (T, "0000/0000/0000/0000", 0, 0, 0.333333, 0.166667, 0.25, 0.125),
    "F": (T, "0111/0111/0122/0122", 0.4, 1, 0.666667, 0.666667, 0.75, 0.75),
    "G": ("0000/0000/0000/0000", "0000/0000/0000/0000", 1, None, 1, 1, None, None),
    "H": ("0000/0000/0000/0000", "0011/0011/0011/0011", 0, None, 0.5, 0.5, None, None),
    "I": ("1111/1111/1111/1111", "0011/0011/0011/0011", 0, 0, 0.5, 0.5, 0.5, 0.5),
    "J": ("01/23", "32/10", 1, 1, 1, 1, 1, 1),
    "K": ("1122/1122/3322/3322", "0011/0011/2211/2210", *[0.789809] * 2, *[0.891667] * 4),
    "L": ("000/010/000", "000/010/000", 1, 1, 1, 1, 1, 1),
    "M": (M, "000111/022211/003311/440330", 0.555705, 0.486667, 0.703571, 0.703571, 0.704762, 0.704762),
}
N = ("00011/00011/00220/00220", "00011/00011/20220/20220")  # stuff and unlabelled pixels are background here
SINGLE_SCORES = [  # truth, prediction, score, value
    ("0011", "0011", "ari_fg", 1),  # J2: a lone object, covered by one slot
    ("0011", "0012", "ari_fg", 0),  # J2: by two
    ("0011/0011", "0011/0012", "ari_fg", 0),  # O: an object renumbered to 0 is lost
    ("1122/1122", "0011/0012", "ari_fg", 0.774194),  # O: with 0 kept for the background
    (*N, "ari", 0.688233),
    (*N, "ari_fg", 1),
    (*N, "mbo", 0.833333),
    (*N, "miou", 0.833333),
]


def label_map(rows: str) -> torch.Tensor:
    return torch.tensor([[int(letter) for letter in row] for row in rows.split("/")], dtype=torch.uint8)[None]


def score(prediction, target, **options) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return Segmentation(**options)({"segment": target}, {"segment": prediction})


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_examples(name):
    truth, prediction, *values = EXAMPLES[name]
    result = score(label_map(prediction), label_map(truth))
    for key, value in zip(SCORES, values, strict=True):
        assert bool(result[key][1]) == (value is not None)
        assert result[key][0].item() == pytest.approx(value or 0, abs=1e-6)


@pytest.mark.parametrize(("truth", "prediction", "key", "value"), SINGLE_SCORES)
def test_single_scores(truth, prediction, key, value):
    found, valid = score(label_map(prediction), label_map(truth))[key]
    assert valid.item()
    assert found.item() == pytest.approx(value, abs=1e-6)


def test_unlabelled_pixels_left_out():
    """Example N with stuff as object 1 and unlabelled pixels as 0, which belong to no object but to slot areas."""
    truth, prediction = label_map("01122/01122/01331/01331"), label_map("00011/00011/20220/20220")
    table = contingency(prediction.flatten(1), truth.flatten(1), valid=truth.flatten(1) > 0)
    assert adjusted_rand_index(table)[0].item() == pytest.approx(1)
    result = score(prediction, truth)
    assert result["ari_fg"][0].item() == pytest.approx(1)
    assert result["mbo_fg"][0].item() == pytest.approx(0.822222, abs=1e-6)
    assert result["miou_fg"][0].item() == pytest.approx(0.822222, abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_ignored_pixels_count_nowhere(data):
    """Against scikit-learn and the scores of the remaining pixels as a picture of one row."""
    shape = data.draw(st.sampled_from([(2, 3, 5), (2, 2, 3, 4)]))  # a batch of pictures or of clips
    size = math.prod(shape)
    highest = data.draw(st.sampled_from([3, 3000]))  # 3000: the table is made from ranks
    draw = functools.partial(st.lists, min_size=size, max_size=size)
    prediction = torch.tensor(data.draw(draw(st.integers(0, highest)))).view(shape)
    target = torch.tensor(data.draw(draw(st.integers(0, highest)))).view(shape)
    ignore = torch.tensor(data.draw(draw(st.booleans()))).view(shape)
    metric = Segmentation(ignore="batch.ignore")
    result = metric({"segment": target, "ignore": ignore}, {"segment": prediction})
    for index in range(len(target)):
        kept = ~ignore[index]
        if not kept.any():
            assert not any(result[name][1][index] for name in SCORES)
            continue
        plain = score(prediction[index][kept][None, None], target[index][kept][None, None])
        for name in SCORES:
            assert result[name][1][index] == plain[name][1][0]
            assert result[name][0][index].item() == pytest.approx(plain[name][0].item(), abs=1e-12)
        expected = adjusted_rand_score(target[index][kept], prediction[index][kept])
        assert result["ari"][0][index].item() == pytest.approx(expected, abs=1e-9)


def test_ignored_pixels_in_pieces(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randint(0, 5, (2, 7, 6, 6), generator=generator)
    batch = {"segment": target, "ignore": torch.rand(7, 6, 6, generator=generator) < 0.4}
    metric = Segmentation(ignore="batch.ignore")
    whole = metric(batch, {"segment": prediction})
    monkeypatch.setattr(contingency_module, "PIECE_ENTRIES", 50)
    for name, (value, valid) in metric(batch, {"segment": prediction}).items():
        assert torch.equal(value, whole[name][0]) and torch.equal(valid, whole[name][1])


@pytest.mark.parametrize("ignore", [torch.zeros(1, 4, 4), torch.zeros(1, 4, 3, dtype=torch.bool)])
def test_ignore_must_fit(ignore):
    with pytest.raises(ValueError, match=r"batch.ignore is .*it must be \(1, 4, 4\) bool"):
        Segmentation(ignore="batch.ignore")({"segment": label_map(T), "ignore": ignore}, {"segment": label_map(T)})
    with pytest.raises(ConfigError, match=r"Segmentation.ignore: there is no 'batch.ignore'"):
        score(label_map(T), label_map(T), ignore="batch.ignore")


def test_batch_of_two_averages_valid_samples():
    truth = torch.cat([label_map(T), torch.zeros(1, 4, 4, dtype=torch.uint8)])
    average = Average()
    average.update(score(label_map("0011/0011/0011/0011").expand(2, -1, -1), truth))
    expected = dict(ari=0.363636, ari_fg=0, mbo=0.583333, miou=0.5, mbo_fg=0.5, miou_fg=0.25)
    assert average.result() == pytest.approx(expected, abs=1e-6)
    assert average.excluded() == dict(ari=0, ari_fg=1, mbo=0, miou=0, mbo_fg=1, miou_fg=1)


def test_clip_is_one_sample():
    """Slots that swap objects between two frames are wrong over time, right in each frame."""
    truth, prediction = label_map("01122/01122").view(1, 2, 1, 5), label_map("01122/02211").view(1, 2, 1, 5)
    result = score(prediction, truth)
    for key, value in dict(ari=0.134615, ari_fg=-0.166667, mbo=0.555556, miou=0.555556).items():
        assert result[key][0].shape == (1,)
        assert result[key][0].item() == pytest.approx(value, abs=1e-6)
    frames = score(prediction[0], truth[0])
    assert all(frames[key][0].tolist() == [1, 1] for key in SCORES)


def pattern(name: str, frames: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return prediction and truth (1 t h w) of large pictures with few segments."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    strips = 4 * x // size
    prediction, truth = {
        "P1": lambda: (y >= size / 2, x >= size / 2),
        "P2": lambda: (torch.zeros_like(y), y >= 3 * size / 4),
        "P3": lambda: (8 * x // size % 4, strips),
        "P4": lambda: (torch.where(y % 8 == 0, (strips + 1) % 4, strips), strips),
    }[name]()
    return tuple(part.to(torch.uint8).expand(1, frames, size, size) for part in (prediction, truth))


@pytest.mark.parametrize(
    ("frames", "size", "p1", "p3", "p3_fg", "p4", "p4_fg"),
    [
        (1, 256, -0.000015, 0.333303, 0.347796, 0.708320, 0.721473),
        (1, 384, -0.000007, 0.333320, 0.347813, 0.708327, 0.721480),
        (6, 256, -0.000003, 0.333328, 0.347821, 0.708331, 0.721483),
        (24, 256, -0.000001, 0.333332, 0.347825, 0.708333, 0.721485),
    ],
)
def test_large_pictures_do_not_overflow(frames, size, p1, p3, p3_fg, p4, p4_fg):
    """Exact values by rational arithmetic. A product of int64 pair counts wraps around in nearly all of these."""
    for name, ari, ari_fg in (("P1", p1, None), ("P2", 0, None), ("P3", p3, p3_fg), ("P4", p4, p4_fg)):
        result = score(*pattern(name, frames, size), scores=["ari", "ari_fg"])
        assert result["ari"][0].item() == pytest.approx(ari, abs=1e-6)
        if ari_fg is not None:
            assert result["ari_fg"][0].item() == pytest.approx(ari_fg, abs=1e-6)


def exact_ari(table: np.ndarray) -> Fraction:
    def pairs(counts) -> int:
        return sum(int(count) * (int(count) - 1) for count in np.ravel(counts))

    agreed, true, predicted = pairs(table), pairs(table.sum(0)), pairs(table.sum(1))
    expected = Fraction(true * predicted, max(pairs(table.sum()), 1))
    spread = Fraction(true + predicted, 2) - expected
    return (agreed - expected) / spread if spread else Fraction(1)


def test_ari_of_a_billion_pixels_equals_rational_arithmetic():
    table = np.random.default_rng(0).integers(0, 10**7, (1, 11, 13))
    value, _ = adjusted_rand_index(torch.from_numpy(table))
    assert value.item() == pytest.approx(float(exact_ari(table[0])), rel=1e-9)


@pytest.mark.parity
def test_reference_values(golden):
    """40 pairs of label maps, and 3 where the reference's ARI overflows; there exact values are stored as well."""
    archive = np.load(require(golden / "metrics.npz"))
    names = [f"pair{index:02d}" for index in range(40)] + [f"overflow{index}" for index in range(3)]
    for name in names:
        prediction, target = (torch.from_numpy(archive[f"{name}.{part}"]) for part in ("pred", "gt"))
        result = score(prediction, target)
        for ours, theirs in (("ari", "ari"), ("mbo", "mbo"), ("miou", "miou")):
            for skip, suffix in (("", ""), ("_fg", "_skip0")):
                key = f"{name}.{theirs}{suffix}"
                value, valid = (part.numpy() for part in result[ours + skip])
                exact = f"{key}_exact_own_computation"
                expected = archive[exact if exact in archive else key]
                np.testing.assert_array_equal(valid, archive[f"{key}_valid"], err_msg=key)
                np.testing.assert_allclose(value[valid], expected[valid], rtol=0, atol=1e-6, err_msg=key)
                assert (value[~valid] == 0).all()


@st.composite
def label_pairs(draw):
    samples, pixels = draw(st.integers(1, 4)), draw(st.integers(1, 30))
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    return (
        torch.from_numpy(generator.integers(0, rows, (samples, pixels))),
        torch.from_numpy(generator.integers(0, columns, (samples, pixels))),
    )


PROPERTY = settings(max_examples=60, deadline=None, database=None)


@PROPERTY
@given(label_pairs())
def test_ari_equals_scikit_learn(pair):
    result = score(*pair)
    for index, (prediction, target) in enumerate(zip(*(part.numpy() for part in pair), strict=True)):
        assert result["ari"][0][index].item() == pytest.approx(adjusted_rand_score(target, prediction), abs=1e-9)
        front = target > 0
        assert result["ari_fg"][1][index].item() == front.any()
        if front.any():
            expected = adjusted_rand_score(target[front], prediction[front])
            assert result["ari_fg"][0][index].item() == pytest.approx(expected, abs=1e-9)


@PROPERTY
@given(label_pairs())
def test_overlap_scores_equal_plain_loops(pair):
    """IoU from sets of pixels; the best assignment by trying all of them."""
    result = score(*pair)
    for index, (prediction, target) in enumerate(zip(*(part.tolist() for part in pair), strict=True)):
        areas = {name: {n for n, label in enumerate(prediction) if label == name} for name in range(6)}
        for first, suffix in ((0, ""), (1, "_fg")):
            truths = [{n for n, label in enumerate(target) if label == name} for name in range(first, 6)]
            truths = [truth for truth in truths if truth]
            if not truths:
                assert result[f"mbo{suffix}"][0][index] == 0
                assert not result[f"mbo{suffix}"][1][index]
                continue
            overlaps = [[len(truth & areas[name]) / len(truth | areas[name]) for name in areas] for truth in truths]
            best = sum(max(row) for row in overlaps) / len(truths)
            matched = max(
                sum(row[name] for row, name in zip(overlaps, names, strict=True))
                for names in permutations(range(6), len(truths))
            )
            assert result[f"mbo{suffix}"][0][index].item() == pytest.approx(best)
            assert result[f"miou{suffix}"][0][index].item() == pytest.approx(matched / len(truths))


@PROPERTY
@given(label_pairs(), st.permutations(range(6)), st.permutations(range(1, 6)))
def test_names_of_labels_do_not_matter(pair, names, true_names):
    prediction, target = pair
    renamed = score(torch.tensor(names)[prediction], torch.tensor([0, *true_names])[target])
    for key, (value, valid) in score(prediction, target).items():
        torch.testing.assert_close(renamed[key][0], value, rtol=0, atol=1e-12)
        assert torch.equal(renamed[key][1], valid)


@PROPERTY
@given(label_pairs())
def test_ari_is_symmetric_and_agreement_is_perfect(pair):
    prediction, target = pair
    forward, backward = (adjusted_rand_index(contingency(*both))[0] for both in ((prediction, target), pair[::-1]))
    assert torch.equal(forward, backward)
    for value, valid in score(target, target).values():
        torch.testing.assert_close(value, valid.double())


@PROPERTY
@given(label_pairs())
def test_samples_do_not_depend_on_the_batch_and_stay_in_range(pair):
    for key, (value, valid) in score(*pair).items():
        alone = [score(prediction[None], target[None])[key] for prediction, target in zip(*pair, strict=True)]
        # sums of a batch are vectorised otherwise, which may move the last bit
        torch.testing.assert_close(torch.cat([part[0] for part in alone]), value, rtol=1e-12, atol=1e-12)
        assert torch.equal(torch.cat([part[1] for part in alone]), valid)
        assert (value <= 1 + 1e-12).all()
        assert (value >= (-1 if key.startswith("ari") else 0)).all()
        assert (value[~valid] == 0).all()


@PROPERTY
@given(label_pairs())
def test_mbo_is_at_least_miou(pair):
    result = score(*pair)
    assert (result["mbo"][0] >= result["miou"][0] - 1e-12).all()


def test_table_by_hand():
    prediction, target = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]), torch.tensor([[0, 2, 2, 2], [0, 0, 1, 1]])
    table = contingency(prediction, target)
    assert table.dtype == torch.int64
    assert table.tolist() == [[[1, 0, 1], [0, 0, 2]], [[0, 0, 0], [2, 2, 0]]]
    overlap = [[[1 / 2, 0, 1 / 4], [0, 0, 2 / 3]], [[0, 0, 0], [1 / 2, 1 / 2, 0]]]
    torch.testing.assert_close(iou(table), torch.tensor(overlap, dtype=torch.float64))


@pytest.mark.parametrize("samples", [1, 40, 4000])
def test_table_counts_whatever_the_index_type(samples):
    """The index is int16, int32 or, compacted, int64; each table must hold every pixel of its own sample once."""
    generator = np.random.default_rng(1)
    prediction, target = generator.integers(0, 37, (samples, 50)), generator.integers(0, 31, (samples, 50))
    table = contingency(torch.from_numpy(prediction).byte(), torch.from_numpy(target).int())
    assert (table.sum(dim=(1, 2)) == 50).all()
    last = np.zeros((37, 31), dtype=np.int64)
    np.add.at(last, (prediction[-1], target[-1]), 1)
    if samples < 4000:
        assert (table[-1, : last.shape[0], : last.shape[1]].numpy() == last[: table.shape[1], : table.shape[2]]).all()
    else:
        assert sorted(table[-1][table[-1] > 0].tolist()) == sorted(last[last > 0].tolist())


@pytest.mark.parametrize("dtype", [torch.uint16, torch.int32, torch.int64])
def test_large_ids_are_compacted(dtype):
    """Ids up to 65535 give the same scores as small ones; a dense table would have 4e9 entries."""
    small = torch.tensor([[0, 0, 1, 2], [1, 1, 2, 2], [0, 0, 0, 0]])
    truth = torch.tensor([[0, 1, 1, 2], [3, 3, 1, 3], [0, 0, 0, 0]])
    names, true_names = torch.tensor([5, 65535, 40000]), torch.tensor([0, 65535, 300, 1000])
    expected = score(small, truth)
    result = score(names[small].to(dtype), true_names[truth].to(dtype))
    for key in SCORES:
        torch.testing.assert_close(result[key], expected[key])
    table = contingency(names[small], true_names[truth])
    assert table.shape == (3, 3, 3)
    assert table[1, :, 0].sum() == 0  # sample 1 has no background, its column stays


def test_large_tables_are_scored_in_pieces(monkeypatch):
    generator = np.random.default_rng(2)
    prediction, target = (torch.from_numpy(generator.integers(0, 9, (7, 64))) for _ in range(2))
    expected = score(prediction, target)
    monkeypatch.setattr(contingency_module, "PIECE_ENTRIES", 200)  # two samples each
    result = score(prediction, target)
    for key in SCORES:
        torch.testing.assert_close(result[key], expected[key])


@pytest.mark.parametrize("pixels", [0, 1])
def test_smallest_maps_are_never_nan(pixels):
    maps = torch.zeros(2, pixels, dtype=torch.int64)
    for value, valid in score(maps, maps).values():
        assert value.shape == valid.shape == (2,)
        assert value.isfinite().all()
    assert score(maps, maps)["ari"][1].all() == bool(pixels)


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(2, 4).long(), "prediction must hold integer ids, not torch.float32"),
        (torch.zeros(2, 4).long(), torch.zeros(2, 4).long() - 1, "ids must be >= 0"),
        (torch.zeros(2, 4).long(), torch.zeros(2, 5).long(), r"output\.segment \(2, 4\) and batch\.segment \(2, 5\)"),
        (torch.zeros(4).long(), torch.zeros(4).long(), "two index maps"),
    ],
)
def test_wrong_maps_are_refused(prediction, target, message):
    with pytest.raises(ValueError, match=message):
        score(prediction, target)


def test_wrong_arguments_of_the_table_are_refused():
    maps = torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="two index maps"):
        contingency(maps, maps[:, :3])
    with pytest.raises(ValueError, match=r"valid must be \(2, 4\) bool"):
        contingency(maps, maps, valid=maps)
    with pytest.raises(ValueError, match="too many for a table"):
        contingency(torch.arange(50_000)[None], torch.arange(50_000)[None])


def test_config():
    metric = build(dict(type="Segmentation", prediction="output.other", scores=["mbo"]), "metric")
    assert list(metric({"segment": label_map(T)}, {"other": label_map(T)})) == ["mbo"]
    with pytest.raises(ConfigError, match=r"metric: unknown scores 'fgari'; known: ari, ari_fg, mbo, miou, mbo_fg"):
        build(dict(type="Segmentation", scores=["ari", "fgari"]), "metric")
    with pytest.raises(ConfigError, match=r"Segmentation\.prediction: there is no 'output\.other'"):
        metric({"segment": label_map(T)}, {"segment": label_map(T)})


def test_average_does_not_depend_on_batch_sizes():
    """Values 1, 1, 1 and 0 in batches of three and one: 0.75, not the mean of the batches' means, 0.5."""
    average = Average()
    for values in ([1.0, 1.0, 1.0], [0.0]):
        value = torch.tensor(values, requires_grad=True)
        average.update({"ari": (value, torch.ones_like(value, dtype=torch.bool))})
    assert average.result() == {"ari": 0.75}
    assert average.excluded() == {"ari": 0}


def test_average_leaves_out_what_is_not_valid():
    average = Average()
    assert average.result() == {}
    assert average.excluded() == {}
    nan = torch.tensor([math.nan, 3.0])
    average.update({"some": (nan, torch.tensor([False, True])), "none": (nan, torch.tensor([False, False]))})
    average.update({"late": (torch.ones(1), torch.tensor([True]))})
    assert average.result() == {"some": 3, "late": 1}
    assert average.excluded() == {"some": 1, "none": 2, "late": 0}
    with pytest.raises(ValueError, match=r"some: values \(2,\), but validities \(3,\)"):
        average.update({"some": (torch.ones(2), torch.ones(3, dtype=torch.bool))})


def test_average_takes_weights_such_as_numbers_of_frames():
    """Values 1 and 0.25 of one and three frames, one of no frame: (1 + 3 * 0.25) / 4; also in two parts."""
    value, weight = torch.tensor([1.0, 0.25, math.nan]), torch.tensor([1.0, 3.0, 0.0], dtype=torch.float64)
    whole, first, second = Average(), Average(), Average()
    whole.update({"mbo": (value, weight)})
    first.update({"mbo": (value[:1], weight[:1])})
    second.update({"mbo": (value[1:], weight[1:])})
    for average in (whole, Average.total([first.sums(), second.sums()])):
        assert average.result() == {"mbo": 0.4375}
        assert average.excluded() == {"mbo": 1}


def test_areas_may_cover_pixels_that_the_table_lacks():
    """A slot of 4 pixels of which the table has 2: its IoU with an object of 2 pixels is 1/2, not 1."""
    table, areas = torch.tensor([[[0, 2], [1, 0]]]), torch.tensor([[4, 1]])
    assert iou(table)[0, 0, 1] == 1
    assert iou(table, areas)[0, 0, 1] == 0.5
    for function in (mean_best_overlap, mean_iou):
        assert function(table, skip_background=True, areas=areas)[0].item() == 0.5


def test_functions_of_the_table_give_float64_and_bool():
    table = contingency(torch.tensor([[0, 1]]), torch.tensor([[0, 1]]))
    for function in (adjusted_rand_index, mean_best_overlap, mean_iou):
        value, valid = function(table)
        assert (value.dtype, valid.dtype) == (torch.float64, torch.bool)
