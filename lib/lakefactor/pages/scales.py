"""From values to places: linear and logarithmic scales, and the round numbers that an axis shows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, as shares of its length.

    Attributes
    ----------
    low, high : float
        ``low < high``; both above 0 where the scale is logarithmic.
    logarithmic : bool
    """

    low: float
    high: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return where a value lies: 0 at the low end, 1 at the high end.

        >>> Scale(0, 50).place(20), Scale(1, 100, logarithmic=True).place(10)
        (0.4, 0.5)
        """
        low, high, at = (math.log(x) if self.logarithmic else x for x in (self.low, self.high, value))
        return (at - low) / (high - low)

    def ticks(self, most: int = 5, whole: bool = False) -> list[float]:
        """Return at most so many round values on the axis, whole ones where that is asked for.

        >>> Scale(0, 1).ticks(), Scale(0.02, 0.083).ticks(), Scale(1, 3000, logarithmic=True).ticks()
        ([0.0, 0.25, 0.5, 0.75, 1.0], [0.02, 0.04, 0.06, 0.08], [1.0, 10.0, 100.0, 1000.0])
        >>> Scale(0, 9).ticks(), Scale(0, 9).ticks(whole=True), Scale(1, 3).ticks(whole=True)
        ([0.0, 2.5, 5.0, 7.5], [0.0, 5.0], [1.0, 2.0, 3.0])
        """
        if self.logarithmic:
            lowest, highest = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            if highest > lowest:
                every = math.ceil((highest - lowest + 1) / most)
                return [10.0**power for power in range(lowest, highest + 1, every)]
        step = round_step((self.high - self.low) / (most - 1), whole)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


def round_step(least: float, whole: bool = False) -> float:
    """Return the smallest of 1, 2, 2.5, 5 times a power of ten that is not below `least`, which is above 0.

    >>> [round_step(value) for value in (0.25, 0.3, 7.0, 1.0)], round_step(2.1, whole=True)
    ([0.25, 0.5, 10.0, 1.0], 5.0)
    """
    least = max(least, 1.0) if whole else least
    power = 10.0 ** math.floor(math.log10(least))
    steps = (step * power for step in (1, 2, 2.5, 5, 10))
    return next(step for step in steps if step >= least * (1 - 1e-9) and not (whole and step % 1))


def scale_of(values: Iterable[float], *, from_zero: bool = False, logarithmic: bool = False) -> Scale:
    """Return a scale that holds all values; a little wider where they are all the same.

    Parameters
    ----------
    values : iterable of float
        Finite; of a logarithmic scale, above 0.
    from_zero : bool
        Zero is on it, too.

    Examples
    --------
    >>> scale_of([2.0, 4.0]), scale_of([3.0], from_zero=True), scale_of([5.0])
    (Scale(low=2.0, high=4.0, logarithmic=False), Scale(low=0.0, high=3.0, logarithmic=False), \
Scale(low=4.5, high=5.5, logarithmic=False))
    """
    found = [*values, *([0.0] if from_zero else [])] or [1.0]
    low, high = min(found), max(found)
    if low == high:
        wider = abs(low) * 0.1 or 1.0
        low, high = (low / 1.1, high * 1.1) if logarithmic else (low - wider * (not from_zero), high + wider)
    return Scale(low, high, logarithmic)


def widened(scale: Scale, most: int = 5) -> Scale:
    """Return the scale from one round value to another.

    >>> widened(Scale(0.013, 0.083))
    Scale(low=0.0, high=0.1, logarithmic=False)
    """
    if scale.logarithmic:
        return scale
    step = round_step((scale.high - scale.low) / (most - 1))
    low, high = math.floor(scale.low / step + 1e-9) * step, math.ceil(scale.high / step - 1e-9) * step
    return Scale(float(f"{low:.12g}"), float(f"{high:.12g}"))
