"""Which frames of a video a sample shows: `clip(length, rng) -> range`, asked before anything is decoded."""

import numpy as np

from ..registry import register


@register
class RandomClip:
    """`size` frames, `step` apart, from a random start.

    A video too short for that gives all its frames, `step` apart.

    Args:
        size: frames wanted.
        step: distance of two frames.
        aligned: starts are multiples of the clip's span (and the last start that fits), so that clips do not overlap;
            False: any start that fits, all equally likely.

    Raises:
        ValueError: size or step below 1.
    """

    is_random = True

    def __init__(self, size: int, step: int = 1, aligned: bool = False):
        if size < 1 or step < 1:
            raise ValueError(f"size and step are at least 1, got {size} and {step}")
        self.size, self.step, self.aligned = size, step, aligned

    def __call__(self, length: int, rng: np.random.Generator) -> range:
        """Draw a clip of a video of `length` frames."""
        span = self.size * self.step
        last = length - (span - self.step + 1)  # the last start that fits
        if last <= 0:
            return range(0, length, self.step)
        starts = np.unique([*range(0, last + 1, span), last]) if self.aligned else range(last + 1)
        start = int(starts[rng.integers(len(starts))])
        return range(start, start + span, self.step)


@register
class FixedClip:
    """Always the same frames.

    Args:
        start: the first frame.
        stop: the one before which to end; None means the end of the video. Negative numbers count from the end.
        step: distance of two frames.

    Raises:
        ValueError: step below 1; when called, if a video has none of these frames.
    """

    is_random = False

    def __init__(self, start: int = 0, stop: int | None = None, step: int = 1):
        if step < 1:
            raise ValueError(f"step is at least 1, got {step}")
        self.frames = slice(start, stop, step)

    def __call__(self, length: int, rng: np.random.Generator | None = None) -> range:
        """Return the frames of a video of `length` frames."""
        frames = range(*self.frames.indices(length))
        if not frames:
            raise ValueError(f"a video of {length} frames has none from {self.frames.start} to {self.frames.stop}")
        return frames


@register
class SideClip:
    """`size` neighbouring frames at the left, the centre or the right of the video, all of a shorter one.

    Args:
        size: frames wanted.
        side: left, center or right.

    Raises:
        ValueError: size below 1, or another side.
    """

    is_random = False
    sides = ("left", "center", "right")

    def __init__(self, size: int, side: str = "left"):
        if size < 1 or side not in self.sides:
            raise ValueError(f"size is at least 1 and side one of {', '.join(self.sides)}; got {size} and {side!r}")
        self.size, self.side = size, side

    def __call__(self, length: int, rng: np.random.Generator | None = None) -> range:
        """Return the frames of a video of `length` frames."""
        surplus = max(length - self.size, 0)
        start = {"left": 0, "center": surplus // 2, "right": surplus}[self.side]
        return range(start, start + min(length, self.size))
