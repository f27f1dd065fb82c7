"""Errors of predicted ratings, as sums that merge over blocks."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakefactor.errors import ShapeError

_LOWER_IS_BETTER = ("rmse", "mae")


@dataclass(frozen=True)
class ErrorSums:
    """Sums of rating errors over some entries; those of two blocks add up.

    Attributes
    ----------
    n : int
        Entries.
    squared, absolute : float
        Sum of squared errors and of absolute errors, in squared rating units and rating units.

    Examples
    --------
    >>> merged = error_sums([3.0, 4.0], [4.0, 4.0]) + error_sums([2.0], [4.0])
    >>> merged, round(merged.rmse, 4), merged.mae
    (ErrorSums(n=3, squared=5.0, absolute=3.0), 1.291, 1.0)
    """

    n: int = 0
    squared: float = 0.0
    absolute: float = 0.0

    def __add__(self, other: ErrorSums) -> ErrorSums:
        """Merge with the sums of other entries."""
        return ErrorSums(self.n + other.n, self.squared + other.squared, self.absolute + other.absolute)

    @property
    def rmse(self) -> float:
        """Root of the mean squared error, ``sqrt(sum (p - r)^2 / n)``; NaN without entries."""
        return sqrt(self.squared / self.n) if self.n else nan

    @property
    def mae(self) -> float:
        """Mean absolute error, ``sum |p - r| / n``; NaN without entries."""
        return self.absolute / self.n if self.n else nan


def error_sums(predicted: NDArray[Any] | list[float], actual: NDArray[Any] | list[float]) -> ErrorSums:
    """Sum the errors of predictions in float64.

    Parameters
    ----------
    predicted, actual : float arrays, shape (n,)
        Ratings in the same unit. A NaN makes the sums NaN: it is never left out.

    Raises
    ------
    ShapeError
        The shapes differ.
    """
    p, r = np.asarray(predicted, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    if p.shape != r.shape:
        raise ShapeError(f"{p.shape} predictions for {r.shape} ratings")
    error = p - r
    return ErrorSums(error.size, float(np.square(error).sum()), float(np.abs(error).sum()))


def rmse(predicted: NDArray[Any] | list[float], actual: NDArray[Any] | list[float]) -> float:
    """Root mean squared error, in rating units; NaN without entries.

    >>> round(rmse([3.0, 4.0, 2.0], [4.0, 4.0, 4.0]), 4)  # sqrt((1 + 0 + 4) / 3)
    1.291
    """
    return error_sums(predicted, actual).rmse


def mae(predicted: NDArray[Any] | list[float], actual: NDArray[Any] | list[float]) -> float:
    """Mean absolute error, in rating units; NaN without entries.

    >>> mae([3.0, 4.0, 2.0], [4.0, 4.0, 4.0])  # (1 + 0 + 2) / 3
    1.0
    """
    return error_sums(predicted, actual).mae


def sign_of(metric: str) -> int:
    """Return 1 where more is better, else -1; a segment may follow after a dot.

    >>> [sign_of(metric) for metric in ("ndcg_at_10", "rmse", "rmse.new_users")]
    [1, -1, -1]
    """
    return -1 if metric.partition(".")[0] in _LOWER_IS_BETTER else 1
