"""Protocols: the worked examples under the rules of each, numbers of which come from running the published code."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F

from object_centric_bench.learn.callback import MaskToSegment, mask_to_segment
from object_centric_bench.learn.metric import Average, Segmentation
from object_centric_bench.learn.protocol import PROTOCOLS, REGIONS, Plan, Protocol, with_classes
from object_centric_bench.learn.score import SCORES, legacy_int64_rand_index
from object_centric_bench.learn.scoring import Scoring
from object_centric_bench.registry import ConfigError, build
from tests.learn.test_metric import EXAMPLES, SINGLE_SCORES, M, N, T, label_map, pattern
from tests.learn.test_metric import SCORES as OF_CONFIG

EMPTY = {"vvo": None, "legacy_int64": None, "msf": None, "savi": 1, "spot": 1, "videosaur": 1, "videosaur_frames": 1}
IMAGES = [*EMPTY, "strict"]


def masks(ids):
    """Return masks (b s h w) or (b t s h w) whose largest is the one of the id."""
    return F.one_hot(ids.long()).movedim(-1, -3).float()


def plan_of(rules, classes=True, video=False, regions=()):
    """Return a protocol on labels that are in the batch in the size wanted; `regions` are those that it has."""
    rules = PROTOCOLS[rules] if isinstance(rules, str) else rules
    return Plan(
        rules,
        semantic="semantic" if classes else None,
        ignored=tuple(kind for kind in rules.ignored if kind in regions),
        unclaimed=tuple(kind for kind in rules.unclaimed if kind in regions),
        scores=with_classes(rules.scores, classes, video),
    )


def score(rules, truth, prediction, **options):
    """Return score -> (mean, excluded) of one batch under a protocol; maps (b h w) or (b t h w)."""
    extra = options.pop("batch", {})
    plan = plan_of(rules, video=truth.ndim == 4, regions=extra, **options)
    metric = Scoring([plan], [], [])
    average = Average()
    average.update(metric({"segment": truth, "semantic": truth, **extra}, {"attention": masks(prediction)}))
    result, excluded = average.result(), average.excluded()
    start = f"{plan.protocol.name}/attention/"
    return {name.removeprefix(start): (result.get(name), excluded[name]) for name in excluded}


@pytest.mark.parametrize("protocol", IMAGES)
@pytest.mark.parametrize("example", EXAMPLES)
def test_worked_examples_under_every_protocol(protocol, example):
    """ARI_fg of an image without foreground is 1 or excluded; else all code bases agree once background is aside."""
    truth, prediction, ari, ari_fg, mbo, miou, mbo_fg, miou_fg = EXAMPLES[example]
    expected = dict(ari=ari, ari_fg=ari_fg, mbo=mbo, miou=miou, mbo_fg=mbo_fg, miou_fg=miou_fg)
    expected |= dict(mbo_i=mbo_fg, mbo_c=mbo_fg, ari_fg=EMPTY.get(protocol) if ari_fg is None else ari_fg)
    found = score(protocol, label_map(truth), label_map(prediction))
    compared = [name for name in found if name in expected]
    assert set(found) - set(compared) <= {"ami", "ami_fg", "corloc"}
    for name in compared:
        value, excluded = found[name]
        assert excluded == (expected[name] is None)
        assert value == (None if expected[name] is None else pytest.approx(expected[name], abs=1e-6)), name


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("vvo", dict(ari=0.363636, ari_fg=0, mbo=0.583333, miou=0.5)),
        ("legacy_int64", dict(ari=0.363636, ari_fg=0, mbo=0.583333, miou=0.5)),
        ("msf", dict(ari=0.363636, ari_fg=0, mbo=0.583333, miou=0.5)),
        ("savi", dict(ari=0.363636, ari_fg=0.5)),
        ("videosaur", dict(ari_fg=0.5, mbo_fg=0.5)),
        ("videosaur_frames", dict(ari_fg=0.5, mbo_fg=0.5)),
        ("spot", dict(ari_fg=0.5, mbo_i=0.5, mbo_c=0.5, miou_fg=0.25)),
        ("strict", dict(ari=0.363636, ari_fg=0, mbo=0.583333, mbo_i=0.5, miou=0.5, miou_fg=0.25)),
    ],
)
def test_batch_with_an_image_without_objects(protocol, expected):
    truth = torch.cat([label_map(T), torch.zeros(1, 4, 4, dtype=torch.uint8)])
    found = score(protocol, truth, label_map("0011/0011/0011/0011").expand(2, -1, -1))
    assert {name: found[name][0] for name in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("vvo", dict(ari=0.134615, ari_fg=-0.166667, mbo=0.555556, miou=0.555556)),
        ("legacy_int64", dict(ari=0.134615, ari_fg=-0.166667, mbo=0.555556, miou=0.555556)),
        ("msf", dict(ari=0.134615, ari_fg=-0.166667, mbo=0.555556, miou=0.555556)),
        ("strict", dict(ari=0.134615, ari_fg=-0.166667, mbo=0.555556, miou=0.555556)),
        ("savi", dict(ari=0.134615, ari_fg=-0.166667)),
        ("videosaur", dict(ari_fg=-0.166667, mbo_fg=1 / 3)),  # of either object a slot has 2 pixels of 4, and 2 others
        ("videosaur_frames", dict(ari_fg=1, mbo_fg=1)),
        ("spot", dict(ari_fg=1, mbo_i=1, mbo_c=1, miou_fg=1)),
    ],
)
def test_slots_that_swap_objects_are_wrong_over_time_only(protocol, expected):
    truth, prediction = (label_map(rows).view(1, 2, 1, 5) for rows in ("01122/01122", "01122/02211"))
    found = score(protocol, truth, prediction)
    assert {name: found[name][0] for name in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("protocol", IMAGES)
@pytest.mark.parametrize(("truth", "prediction", "name", "value"), SINGLE_SCORES[:4])
def test_lone_and_renumbered_objects_under_every_protocol(protocol, truth, prediction, name, value):
    """Examples J2 and O."""
    assert score(protocol, label_map(truth), label_map(prediction))[name][0] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("protocol", sorted({*IMAGES} - {"legacy_int64"}))
@pytest.mark.parametrize("size", [(1, 256), (1, 384), (6, 256), (24, 256)])
def test_large_maps_have_their_exact_ari_under_every_protocol_but_one(protocol, size):
    """P1 to P4 of the specification; all frames are alike, so that scoring them one by one changes little."""
    rules = PROTOCOLS[protocol]
    rules = dataclasses.replace(rules, scores=[name for name in ("ari", "ari_fg") if name in rules.scores])
    exact = dict(P1=(0.0, None), P2=(0.0, None), P3=(1 / 3, 0.347826), P4=(0.708333, 0.721485))
    for name, (ari, ari_fg) in exact.items():
        prediction, truth = pattern(name, *size)
        found = score(rules, truth, prediction)
        if "ari" in found:
            assert found["ari"][0] == pytest.approx(ari, abs=4e-5)
        if ari_fg is not None:
            assert found["ari_fg"][0] == pytest.approx(ari_fg, abs=4e-5)


@pytest.mark.parametrize("protocol", ["legacy_int64", "savi", "spot", "strict", "videosaur", "videosaur_frames"])
def test_example_n_where_unlabelled_pixels_are_background_or_count_nowhere(protocol):
    """They are what slot 2 has beside object 2: without them all is right."""
    truth, prediction = (label_map(rows) for rows in N)
    unlabelled = label_map("10000/10000/10000/10000").bool()
    found = score(protocol, truth, prediction, batch={"unlabelled": unlabelled} if protocol == "strict" else {})
    assert found["ari_fg"][0] == pytest.approx(1)
    if protocol == "strict":
        assert found["ari"][0] == pytest.approx(1)
    elif "ari" in found:
        assert found["ari"][0] == pytest.approx(0.688233, abs=1e-6)


def test_unlabelled_pixels_are_background_or_nobodys():
    """Example N: stuff is segment 0 beside the unlabelled pixels; MSF takes the latter out of ARI, not out of areas."""
    truth, prediction = (label_map(rows) for rows in N)
    unlabelled = label_map("10000/10000/10000/10000").bool()
    vvo = score("vvo", truth, prediction, batch={"unlabelled": unlabelled})
    assert [vvo[name][0] for name in ("ari", "ari_fg", "mbo", "miou")] == pytest.approx(
        [0.688233, 1, 0.833333, 0.833333], abs=1e-6
    )
    msf = score("msf", truth, prediction, batch={"unlabelled": unlabelled})
    assert [msf[name][0] for name in ("ari", "ari_fg", "mbo", "miou")] == pytest.approx(
        [1, 1, 0.822222, 0.822222], abs=1e-6
    )


def test_ignored_pixels_leave_prediction_and_truth():
    """By hand: without the column that both get wrong, the rest is perfect."""
    truth, prediction = label_map("0112/0112"), label_map("0111/0111")
    ignored = label_map("0001/0001").bool()
    found = score("strict", truth, prediction, batch={kind: ignored & (kind == "crowd") for kind in REGIONS})
    assert {name: value for name, (value, _) in found.items()} == pytest.approx(dict.fromkeys(found, 1.0))
    assert score("strict", truth, prediction)["mbo_i"][0] == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_ignored_and_unclaimed_pixels_of_frames():
    """By hand. Of frame 1 the last pixel counts nowhere, the first only in the area of its slot; frame 2 is perfect."""
    rules = Protocol("both", ("mbo", "mbo_fg"), unit="frame", ignored=("crowd",), unclaimed=("unlabelled",))
    truth, prediction = (label_map(rows).view(1, 2, 1, 5) for rows in ("00111/00111", "01001/00111"))
    first, last = (label_map(rows).view(1, 2, 1, 5).bool() for rows in ("10000/00000", "00001/00000"))
    found = score(rules, truth, prediction, batch={"unlabelled": first, "crowd": last})
    assert found["mbo"][0] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert found["mbo_fg"][0] == pytest.approx((2 / 3 + 1) / 2)


# published (int64), exact; P1 to P4 of the specification. The two agree where nothing overflows.
OVERFLOW = {
    (1, 256): dict(P1=(-0.000015, None), P2=(0.842107, None), P3=(0.333303, 0.347796), P4=(0.708320, 0.721473)),
    (1, 384): dict(P1=(0.483589, None), P2=(0.769032, None), P3=(0.529250, 0.586981), P4=(0.794047, 0.822060)),
    (6, 256): dict(P1=(0.5, None), P2=(0.769231, None), P3=(0.499997, 0.545566), P4=(0.781249, 0.810464)),
    (24, 256): dict(P1=(0.5, None), P2=(0.769231, None), P3=(0.499999, 0.545454), P4=(0.781250, 0.810808)),
}


@pytest.mark.parametrize("size", OVERFLOW)
def test_legacy_int64_repeats_the_published_overflow(size):
    for name, (ari, ari_fg) in OVERFLOW[size].items():
        prediction, truth = pattern(name, *size)
        rules = Protocol("short", ("ari", "ari_fg"), integers="legacy_int64")
        found = score(rules, truth, prediction)
        assert found["ari"][0] == pytest.approx(ari, abs=2e-6)
        if ari_fg is not None:
            assert found["ari_fg"][0] == pytest.approx(ari_fg, abs=2e-6)


@pytest.mark.parametrize(
    ("table", "exact", "published"),
    [
        ([[3000, 500], [700, 1800]], 0.358932, 0.358932),
        ([[30000, 8000], [9000, 18536]], 0.230834, 0.230834),
        ([[60000, 20000], [30000, 37456]], 0.103254, 0.571533),
        ([[62000, 100], [400, 3036]], 0.912155, 0.993030),
        ([[100000, 5000], [20000, 22456]], 0.393855, 0.787151),
        ([[600000, 200000], [300000, 472864]], 0.132648, 0.570866),
    ],
)
def test_overflow_on_tables(table, exact, published):
    table = torch.tensor([table])
    value, valid = legacy_int64_rand_index(table)
    assert valid.all()
    assert value.item() == pytest.approx(published, abs=2e-6)
    assert PROTOCOLS["vvo"].integers == "exact"
    from object_centric_bench.learn.metric import adjusted_rand_index

    assert adjusted_rand_index(table)[0].item() == pytest.approx(exact, abs=1e-6)


def test_only_legacy_int64_overflows():
    assert [name for name, rules in PROTOCOLS.items() if rules.integers != "exact"] == ["legacy_int64"]


def test_mean_of_batches_means_and_of_samples():
    """Values 1, 1, 1 and 0 in batches of three and one: published code says 0.5, the mean is 0.75."""
    truth = torch.cat([label_map(T)] * 4)
    prediction = torch.cat([label_map(T)] * 3 + [label_map("0000/0000/0000/0000")])
    for name, expected in (("vvo", 0.75), ("legacy_int64", 0.5)):
        metric, average = Scoring([plan_of(name)], [], []), Average()
        for part in (slice(0, 3), slice(3, 4)):
            average.update(metric({"segment": truth[part]}, {"mask": masks(prediction[part])}))
        assert average.result()[f"{name}/mask/ari_fg"] == pytest.approx(expected)


def test_frames_of_all_videos_count_the_same():
    """A video with one frame that has objects and one with two: three frames, and the mean is over these."""
    truth = torch.zeros(2, 2, 1, 4, dtype=torch.uint8)
    truth[0, 0, 0, :2] = 1
    truth[1, :, 0, :2] = 1
    prediction = truth.clone()
    prediction[0, 0, 0, 1] = 0  # IoU 1/2 of this frame, 1 of the two others
    found = score("videosaur_frames", truth, prediction)
    assert found["mbo_fg"] == (pytest.approx((0.5 + 1 + 1) / 3), 0)
    assert found["ari_fg"][0] == pytest.approx((0 + 1 + 1 + 1) / 4)  # a frame without objects counts 1


def test_all_masks_of_a_method_are_scored_and_the_right_one_is_quoted():
    truth = label_map(T)
    batch = {"segment": truth, "semantic": truth}
    both = {"attention": masks(label_map("0000/0000/0000/0001")), "mask": masks(truth)}
    metric = Scoring([plan_of("vvo"), plan_of("spot")], [], [MaskToSegment("output.attention", [4, 4])])
    found = metric(batch, both | {"segment": label_map("0000/0000/0000/0001")})
    assert found["vvo/mask/mbo"][0].item() == 1
    assert found["vvo/attention/mbo"][0].item() < 0.5
    assert [metric.headline(plan) for plan in metric.plans] == ["attention", "mask"]
    cards = metric.cards()
    assert cards["spot"]["masks"] == "slot attention, decoder masks (to quote)"
    assert cards["vvo"]["masks"] == "slot attention (to quote), decoder masks"
    alone = Scoring([plan_of("spot")], [], [])
    alone(batch, {"attention": both["attention"]})
    assert alone.cards()["spot"]["masks"] == "slot attention (to quote)"
    with pytest.raises(ConfigError, match="a protocol scores attention or mask; the model gives reconstruction"):
        Scoring([plan_of("vvo")], [], [])(batch, {"reconstruction": truth})


def test_scores_of_the_config_stay_to_the_bit_and_share_their_tables(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    truth, prediction = torch.randint(0, 5, (2, 6, 8, 8), generator=generator, dtype=torch.uint8)
    ignore = torch.rand(6, 8, 8, generator=generator) < 0.2
    batch = {"segment": truth, "semantic": truth, "ignore": ignore}
    output = {"segment": prediction, "attention": masks(prediction)}
    own = [Segmentation(), Segmentation(scores=["mbo"], ignore="batch.ignore")]
    other = [lambda batch, output: {"seven": (torch.full((6,), 7.0), torch.ones(6, dtype=torch.bool))}]
    alone = {}
    for metric in own[:1] + other:
        alone |= metric(batch, output)
    made = []
    from object_centric_bench.learn import score as module

    count = module.count_pairs
    monkeypatch.setattr(module, "count_pairs", lambda *given: made.append(given) or count(*given))
    metric = Scoring([plan_of("vvo"), plan_of("savi")], [own[0], *other], [MaskToSegment("output.attention", [8, 8])])
    found = metric(batch, output)
    assert len(made) == 1  # one table for the config and both protocols
    for name, (value, valid) in alone.items():
        assert torch.equal(found[name][0], value) and torch.equal(found[name][1], valid)
    assert torch.equal(found["vvo/attention/mbo"][0], found["mbo"][0])
    assert set(OF_CONFIG) <= set(found)
    ignoring = Scoring([], [own[1]], [])(batch, output)["mbo"]
    assert torch.equal(ignoring[0], own[1](batch, output)["mbo"][0])
    assert not torch.equal(ignoring[0], found["mbo"][0])


def test_pieces_of_a_batch_give_the_same(monkeypatch):
    from object_centric_bench.learn import contingency

    generator = torch.Generator().manual_seed(1)
    truth, prediction = torch.randint(0, 5, (2, 5, 3, 8, 8), generator=generator, dtype=torch.uint8)
    plans = [plan_of(name, video=True) for name in PROTOCOLS]
    batch = {"segment": truth, "semantic": truth}
    whole = Scoring(plans, [], [])(batch, {"mask": masks(prediction)})
    monkeypatch.setattr(contingency, "PIECE_ENTRIES", 150)
    pieces = Scoring(plans, [], [])(batch, {"mask": masks(prediction)})
    assert whole.keys() == pieces.keys()
    for name, (value, weight) in whole.items():
        torch.testing.assert_close(pieces[name][0], value, rtol=0, atol=1e-12)
        torch.testing.assert_close(pieces[name][1], weight, rtol=0, atol=1e-12)


def test_masks_are_resized_to_the_labels_before_the_largest_is_taken():
    mask = torch.tensor([[[[0.9, 0.1]], [[0.1, 0.9]]]])  # b s 1 2
    truth = label_map("0011/0011")  # the border between the two lies in the middle
    found = Scoring([plan_of("vvo")], [], [])({"segment": truth}, {"mask": mask})
    assert found["vvo/mask/mbo"][0].item() == 1


def test_ties_go_to_the_first_slot():
    mask = torch.tensor([0.2, 0.4, 0.4])[None, :, None, None].expand(1, 3, 2, 2)
    assert mask_to_segment(mask, [4, 4]).unique().tolist() == [1]


def test_cards_are_plain_and_complete():
    for rules in PROTOCOLS.values():
        plan = plan_of(rules, video=True)
        card = plan.card(("attention", "mask"), "mask", (320, 320), video=True)
        assert json.loads(json.dumps(card)) == card
        assert card.keys() >= {"protocol", "rules of", "masks", "size", "background", "unit", "mean over", "arithmetic"}
        assert "320 x 320" in card["size"]
    facts = {"overlap": "none in these labels"}
    spot = Plan(PROTOCOLS["spot"], semantic="semantic", scores=PROTOCOLS["spot"].scores, facts=facts)
    card = spot.card(("mask",), "mask", (320, 320), video=False)
    assert card["left out"] == "overlap (none in these labels)"
    assert card["unit"] == "each image"
    assert card["background"] == "left out in ARI_fg, mBO_i, mBO_c, mIoU_fg"
    assert card["without objects"] == "ARI_fg is 1; the image does not count in mBO_i, mBO_c, mIoU_fg"
    legacy = plan_of("legacy_int64").card(("attention",), "attention", (256, 256), video=False)
    assert legacy["mean over"] == "batches' means" and "legacy_int64" in legacy["arithmetic"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(scores=["ari", "fgari"]), "scores is 'fgari'; known are ari, ari_fg"),
        (dict(unit="clip"), "unit is 'clip'; known are video, frame"),
        (dict(ignored=["edge"]), "ignored is 'edge'; known are border, crowd, overlap, unlabelled"),
        (dict(integers="int64"), "integers is 'int64'; known are exact, legacy_int64"),
        (dict(ignored=["crowd"], unclaimed=["crowd"]), "a region is either ignored or unclaimed"),
        (dict(average="object"), "only j, f, jf are averaged over objects"),
        (dict(scores=[]), "scores is empty"),
        (dict(size=0), "size is a number of pixels, not 0"),
        (dict(name="a b"), "a name is made of letters, digits and _"),
    ],
)
def test_wrong_protocols_are_refused_in_configs(arguments, message):
    node = dict(type="Protocol", name="mine", scores=["ari"]) | arguments
    with pytest.raises(ConfigError, match=message):
        build(node, "protocol.0")


def test_maps_that_do_not_fit_are_refused():
    truth = label_map(T)
    plan = plan_of("strict", regions=REGIONS)
    batch = {"segment": truth, "semantic": truth, **dict.fromkeys(REGIONS, truth)}
    with pytest.raises(ValueError, match=r"batch.border is \(1, 4, 4\) torch.uint8, not \(1, 4, 4\) bool"):
        Scoring([plan], [], [])(batch, {"mask": masks(truth)})
    with pytest.raises(ConfigError, match=r"there is no 'batch.semantic'"):
        Scoring([plan_of("spot")], [], [])({"segment": truth}, {"mask": masks(truth)})


def test_every_score_belongs_to_a_protocol():
    used = {score for rules in PROTOCOLS.values() for score in rules.scores}
    assert used == set(SCORES)


def test_example_m_is_what_ami_of_scikit_learn_says():
    from sklearn.metrics import adjusted_mutual_info_score

    prediction = label_map(EXAMPLES["M"][1])
    found = score("strict", label_map(M), prediction)["ami"][0]
    assert found == pytest.approx(adjusted_mutual_info_score(label_map(M).flatten(), prediction.flatten()), abs=1e-12)
