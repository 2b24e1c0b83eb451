"""Schedules: called with the number of steps already done, they return a value; they hold no state.

A run of `total_steps` steps asks for the steps 0 to `total_steps` - 1, so the final value stands just behind its last
step. Later steps keep that value. All raise `ValueError` on a negative step.
"""

import bisect
import itertools
import math

from object_centric_bench.registry import register


@register
class Constant:
    """One value at all steps."""

    def __init__(self, value: float):
        self.value = value

    def __call__(self, step: int) -> float:
        """Return the value."""
        _check_step(step)
        return float(self.value)


@register
class Linear:
    """A straight line: start + (final - start) step / total_steps."""

    def __init__(self, total_steps: int, start: float, final: float = 0.0):
        _check_steps(total_steps=total_steps)
        self.total_steps = total_steps
        self.start = start
        self.final = final

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        _check_step(step)
        return _linear(step, self.total_steps, self.start, self.final)


@register
class Cosine:
    """Half a cosine wave: final + (start - final) (1 + cos(pi step / total_steps)) / 2.

    Loshchilov and Hutter, ICLR 2017, without restarts.
    """

    def __init__(self, total_steps: int, start: float, final: float = 0.0):
        _check_steps(total_steps=total_steps)
        self.total_steps = total_steps
        self.start = start
        self.final = final

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        _check_step(step)
        return _cosine(step, self.total_steps, self.start, self.final)


@register
class LogCosine:
    """Half a cosine wave of the logarithm: exp(Cosine(ln start -> ln final)); for values that act as factors."""

    def __init__(self, total_steps: int, start: float, final: float):
        """Set the curve.

        Raises:
            ValueError: start or final has no logarithm.
        """
        _check_steps(total_steps=total_steps)
        if start <= 0 or final <= 0:
            raise ValueError(f"LogCosine needs start > 0 and final > 0, got {start} and {final}")
        self.total_steps = total_steps
        self.start = start
        self.final = final

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        _check_step(step)
        if step >= self.total_steps:
            return float(self.final)
        # start (final / start)^w is exp of the blended logarithms and, unlike it, gives back `start` exactly
        return self.start * (self.final / self.start) ** _cosine(step, self.total_steps, 0.0, 1.0)


@register
class CosineLinear:
    """Half a cosine wave from start to middle in `cosine_steps`, then a straight line to final."""

    def __init__(self, total_steps: int, cosine_steps: int, start: float, middle: float, final: float = 0.0):
        """Set the curve; without cosine steps it begins at `middle`.

        Raises:
            ValueError: `cosine_steps` exceeds `total_steps`.
        """
        _check_steps(total_steps=total_steps, cosine_steps=cosine_steps)
        self.total_steps = total_steps
        self.cosine_steps = cosine_steps
        self.start = start
        self.middle = middle
        self.final = final

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        _check_step(step)
        if step <= self.cosine_steps:
            return _cosine(step, self.cosine_steps, self.start, self.middle)
        return _linear(step - self.cosine_steps, self.total_steps - self.cosine_steps, self.middle, self.final)


class _WarmUp:
    """A linear warm-up from start to peak in `warmup_steps`, then a fall to final, which subclasses shape."""

    def __init__(self, total_steps: int, warmup_steps: int, start: float, peak: float, final: float = 0.0):
        """Set the curve; without warm-up it begins at `peak`.

        Raises:
            ValueError: `warmup_steps` exceeds `total_steps`.
        """
        _check_steps(total_steps=total_steps, warmup_steps=warmup_steps)
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.start = start
        self.peak = peak
        self.final = final

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        _check_step(step)
        if step <= self.warmup_steps:
            return _linear(step, self.warmup_steps, self.start, self.peak)
        return self.fall(step - self.warmup_steps, self.total_steps - self.warmup_steps)

    def fall(self, step: int, steps: int) -> float:
        """Return the value at a step after the warm-up; it falls for `steps`."""
        raise NotImplementedError


@register
class LinearCosine(_WarmUp):
    """Linear warm-up from start to peak in `warmup_steps`, then half a cosine wave to final."""

    def fall(self, step: int, steps: int) -> float:
        """Return the value at a step of the cosine wave."""
        return _cosine(step, steps, self.peak, self.final)


@register
class LinearExponential(_WarmUp):
    """Linear warm-up from start to peak in `warmup_steps`, then by the same factor every step, to final."""

    def __init__(self, total_steps: int, warmup_steps: int, start: float, peak: float, final: float):
        """Set the curve; without warm-up it begins at `peak`.

        Raises:
            ValueError: `warmup_steps` exceeds `total_steps`, or no factor leads from peak to final.
        """
        super().__init__(total_steps, warmup_steps, start, peak, final)
        if peak <= 0 or final <= 0:
            raise ValueError(f"LinearExponential needs peak > 0 and final > 0, got {peak} and {final}")

    def fall(self, step: int, steps: int) -> float:
        """Return the value at a step of the exponential decay."""
        return self.peak * (self.final / self.peak) ** _linear(step, steps, 0.0, 1.0)


@register
class SquareWave:
    """Value i from step points[i] on, up to before points[i + 1]; the first holds before, the last afterwards too."""

    def __init__(self, points: list[int], values: list[float]):
        """Set the curve.

        Raises:
            ValueError: there is not one point more than values, or the points do not increase.
        """
        if not values or len(points) != len(values) + 1:
            raise ValueError(
                f"SquareWave needs one point more than values, got {len(points)} points and {len(values)} values"
            )
        if any(left >= right for left, right in itertools.pairwise(points)):
            raise ValueError(f"SquareWave needs increasing points, got {list(points)}")
        self.points = list(points)
        self.values = list(values)

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        _check_step(step)
        return float(self.values[bisect.bisect_right(self.points[1:-1], step)])


def _linear(step: int, steps: int, start: float, final: float) -> float:
    if step >= steps:  # also where there are no steps at all
        return float(final)
    return start + (final - start) * step / steps


def _cosine(step: int, steps: int, start: float, final: float) -> float:
    if step >= steps:
        return float(final)
    return start + (final - start) * (1 - math.cos(math.pi * step / steps)) / 2


def _check_step(step: int) -> None:
    if step < 0:
        raise ValueError(f"a schedule begins at step 0, got {step}")


def _check_steps(total_steps: int, **parts: int) -> None:
    if total_steps < 0:
        raise ValueError(f"total_steps must be >= 0, got {total_steps}")
    for name, steps in parts.items():
        if not 0 <= steps <= total_steps:
            raise ValueError(f"{name} must be between 0 and total_steps = {total_steps}, got {steps}")
