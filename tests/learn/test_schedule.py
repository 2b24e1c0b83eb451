"""Schedules: published vectors to their printed digits, recorded values to rounding, edges by definition."""

import json
import math

import pytest

from object_centric_bench.learn.schedule import (
    Constant,
    Cosine,
    CosineLinear,
    Linear,
    LinearCosine,
    LinearExponential,
    LogCosine,
    SquareWave,
)
from object_centric_bench.registry import ConfigError, build
from tests.conftest import require

COSINE = [1, 0.975528, 0.904508, 0.793893, 0.654508, 0.5, 0.345492, 0.206107, 0.095492, 0.024472, 0]
VECTORS = [
    (Linear(10, 1, 0), [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0]),
    (Cosine(10, 1, 0), COSINE),
    (LogCosine(4, 1, 16), [1, 1.500857, 4, 10.660577, 16]),
    (CosineLinear(8, 4, 1, 0.5, 0.1), [1, 0.926777, 0.75, 0.573223, 0.5, 0.4, 0.3, 0.2, 0.1]),
    (LinearCosine(8, 4, 0, 1, 0.1), [0, 0.25, 0.5, 0.75, 1, 0.868198, 0.55, 0.231802, 0.1]),
    (LinearExponential(6, 2, 0, 1, 1 / 16), [0, 0.5, 1, 0.5, 0.25, 0.125, 0.0625]),
    (SquareWave([0, 3, 6], [1, 0]), [1, 1, 1, 0, 0, 0, 0]),
]


@pytest.mark.parametrize(("schedule", "values"), VECTORS, ids=lambda part: type(part).__name__)
def test_vectors(schedule, values):
    assert [schedule(step) for step in range(len(values))] == pytest.approx(values, abs=1e-6)
    assert schedule(len(values) - 1) == schedule(len(values)) == schedule(10**9)


def test_values_of_full_length_runs():
    rate = LinearCosine(total_steps=50_000, warmup_steps=2500, start=0, peak=2e-4, final=2e-7)
    expected = {0: 0, 1: 8e-8, 1250: 1e-4, 2499: 1.9992e-4, 2500: 2e-4, 2501: 1.9999999978e-4, 14375: 1.7073996744e-4}
    expected |= {26250: 1.001e-4, 38125: 2.9460032559e-5, 49999: 2.0000021850e-7, 50_000: 2e-7}
    assert [rate(step) for step in expected] == pytest.approx(list(expected.values()), rel=1e-9)
    halving = LinearExponential(total_steps=100_000, warmup_steps=2500, start=0, peak=1, final=0.5)  # of VideoSAUR
    expected = {0: 0, 1250: 0.5, 2500: 1, 51_250: 0.7071, 100_000: 0.5}
    assert [halving(step) for step in expected] == pytest.approx(list(expected.values()), abs=1e-4)
    scale = LogCosine(total_steps=30_000, start=1, final=2.35)
    expected = {1: 1.0000000023, 7500: 1.1332914970, 15_000: 1.5329709717, 22_500: 2.0736059578, 29_999: 2.3499999945}
    assert [scale(step) for step in expected] == pytest.approx(list(expected.values()), abs=1e-10)
    mix = CosineLinear(total_steps=30_000, cosine_steps=15_000, start=1, middle=0, final=0)
    expected = {0: 1, 1: 0.9999999890, 7500: 0.5, 14_999: 1.0966e-8, 15_000: 0, 22_500: 0, 30_000: 0}
    assert [mix(step) for step in expected] == pytest.approx(list(expected.values()), abs=1e-10)


def test_spots_rate_falls_as_in_the_paper_and_rises_one_step_later():
    """Spec/methods-beyond.md, 7.3: 4 epochs of 5 steps, one of them of warm-up, whose last step is the peak already."""
    warmup = [0, 1e-4, 2e-4, 3e-4, 4e-4]
    cosine = [4e-4, 3.9563e-4, 3.8273e-4, 3.6184e-4, 3.3389e-4, 3.0010e-4, 2.6194e-4, 2.2108e-4, 1.7932e-4, 1.3846e-4]
    cosine += [1.0030e-4, 6.6508e-5, 3.8558e-5, 1.7674e-5, 4.7661e-6]
    ours = LinearCosine(total_steps=20, warmup_steps=5, start=0, peak=4e-4, final=4e-7)
    assert [ours(5 + step) for step in range(15)] == pytest.approx(cosine, abs=1e-8)
    assert [ours(step) for step in range(5)] == pytest.approx([rate * 4 / 5 for rate in warmup])


KINDS = {  # reference name -> ours, reference argument -> ours
    "CbLinear": (Linear, dict(vbase="start", vfinal="final")),
    "CbCosine": (Cosine, dict(vbase="start", vfinal="final")),
    "CbLnCosine": (LogCosine, dict(vbase="start", vfinal="final")),
    "CbCosineLinear": (CosineLinear, dict(ncos="cosine_steps", vbase="start", vmid="middle", vfinal="final")),
    "CbLinearCosine": (LinearCosine, dict(nlin="warmup_steps", vstart="start", vbase="peak", vfinal="final")),
    "CbSquarewave": (SquareWave, dict(points="points", values="values")),
}


@pytest.mark.parity
def test_reference_values(golden):
    cases = json.loads(require(golden / "schedules.json").read_text())["cases"]
    assert {case["kind"] for case in cases} == KINDS.keys()
    for case in cases:
        cls, names = KINDS[case["kind"]]
        schedule = cls(**{(names | dict(ntotal="total_steps"))[key]: value for key, value in case["arguments"].items()})
        values = [schedule(step) for step in case["steps"]]
        assert values == pytest.approx(case["values"], rel=1e-12, abs=1e-15), case


def test_start_and_final_are_exact():
    for schedule in (Linear(7, 0.2, 2.1), Cosine(7, 0.2, 2.1), LogCosine(7, 0.2, 2.1), LinearCosine(7, 3, 0.2, 9, 2.1)):
        assert (schedule(0), schedule(7), schedule(8)) == (0.2, 2.1, 2.1)


def test_parts_without_steps():
    assert [LinearCosine(4, 0, 0, 1, 0.1)(step) for step in (0, 2, 4)] == pytest.approx([1, 0.55, 0.1])
    assert [LinearCosine(4, 4, 0, 1, 0.1)(step) for step in (0, 2, 4, 5)] == pytest.approx([0, 0.5, 1, 0.1])
    assert [CosineLinear(4, 0, 1, 0.5, 0.1)(step) for step in (0, 2, 4)] == pytest.approx([0.5, 0.3, 0.1])
    for schedule in (Linear(0, 1, 0.5), Cosine(0, 1, 0.5), LogCosine(0, 1, 0.5)):
        assert schedule(0) == schedule(1) == 0.5


def test_square_wave_holds_the_first_value_before_and_the_last_after():
    wave = SquareWave([2, 3, 5], [7, 8])
    assert [wave(step) for step in range(7)] == [7, 7, 7, 8, 8, 8, 8]


def test_constant():
    assert Constant(1)(0) == Constant(1)(10**6) == 1.0
    assert isinstance(Constant(1)(0), float)


@pytest.mark.parametrize("schedule", [Constant(1), *(schedule for schedule, _ in VECTORS)])
def test_all_give_finite_floats_and_refuse_negative_steps(schedule):
    assert all(isinstance(schedule(step), float) and math.isfinite(schedule(step)) for step in range(20))
    with pytest.raises(ValueError, match="begins at step 0, got -1"):
        schedule(-1)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (dict(type="LogCosine", total_steps=4, start=1.0, final=0.0), "start > 0 and final > 0, got 1.0 and 0.0"),
        (dict(type="Linear", total_steps=-1, start=1.0), "total_steps must be >= 0, got -1"),
        (dict(type="LinearCosine", total_steps=4, warmup_steps=5, start=0, peak=1), "warmup_steps must be between 0"),
        (dict(type="LinearExponential", total_steps=4, warmup_steps=1, start=0, peak=1, final=0.0), "final > 0, got 1"),
        (dict(type="CosineLinear", total_steps=4, cosine_steps=-1, start=0, middle=1), "cosine_steps must be between"),
        (dict(type="SquareWave", points=[0, 1], values=[1.0, 2.0]), "2 points and 2 values"),
        (dict(type="SquareWave", points=[0], values=[]), "1 points and 0 values"),
        (dict(type="SquareWave", points=[0, 3, 3], values=[1.0, 2.0]), r"increasing points, got \[0, 3, 3\]"),
        (dict(type="Cosine", total_steps=1.5, start=1.0), "Cosine wants int, got 1.5"),
    ],
)
def test_wrong_configs(node, message):
    with pytest.raises(ConfigError, match=message):
        build(node, "schedule")
