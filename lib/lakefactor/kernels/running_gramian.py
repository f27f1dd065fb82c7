"""Y'Y of rows that come and go, the same bits whatever the order: what a live model keeps up to date.

Floating point sums depend on their order, so a Gramian kept by additions would differ in its last bits from one that is
summed anew after a restart, and with it every row solved from it. Here each number of a row is rounded once, to a
multiple of 2^-24, and written as two signed digits of 20 bits. Products of digits are integers, their sums are exact,
and a row that leaves takes away exactly what it brought.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lakefactor.errors import SolveError

DIGIT_BITS = 20
STEP_BITS = 24
LARGEST = 2.0 ** (2 * DIGIT_BITS - 1 - STEP_BITS)
"""Numbers are smaller than 32768; 2^25 rows of the largest fit the sums."""

_BLOCK_ROWS = 1 << 14
"""Products of two digits are at most 2^38, so float64 (2^53) holds the sum over a block exactly."""


class RunningGramian:
    """The sum of y y' over a set of rows.

    Parameters
    ----------
    k : int
        Length of a row.

    Examples
    --------
    >>> kept, rows = RunningGramian(2), np.array([[1.0, 2.0], [0.1, 0.3], [0.0, 3.0]], np.float32)
    >>> kept.add(rows)
    >>> kept.subtract(rows[1:2])
    >>> kept.value()
    array([[ 1.,  2.],
           [ 2., 13.]])
    """

    def __init__(self, k: int) -> None:
        self._k = k
        self._sums = np.zeros((2 * k, 2 * k), np.int64)

    def add(self, rows: NDArray[np.float32]) -> None:
        """Add rows, shape (n, k).

        Raises
        ------
        SolveError
            A number is not finite, or not below `LARGEST`; nothing was added.
        """
        self._sums += self._products(rows)

    def subtract(self, rows: NDArray[np.float32]) -> None:
        """Take away rows that were added."""
        self._sums -= self._products(rows)

    def value(self) -> NDArray[np.float64]:
        """Return Y'Y of the rounded rows, float64, shape (k, k), symmetric bit for bit."""
        k, base = self._k, 2.0**DIGIT_BITS
        high, mixed, low = self._sums[:k, :k], self._sums[:k, k:], self._sums[k:, k:]
        total: NDArray[np.float64] = high * base**2 + (mixed + mixed.T) * base + low
        return total * 2.0 ** (-2 * STEP_BITS)

    def _products(self, rows: NDArray[np.float32]) -> NDArray[np.int64]:
        bad = np.flatnonzero(~(np.abs(rows) < LARGEST).all(axis=1))
        if len(bad):
            raise SolveError(
                bad[:10].tolist(),
                f"{len(bad)} rows hold factors that are not finite or not below {LARGEST:g}; correct the strengths, "
                "or lessen them by interactions.log_scale.",
            )
        sums = np.zeros_like(self._sums)
        for start in range(0, len(rows), _BLOCK_ROWS):
            digits = _digits(rows[start : start + _BLOCK_ROWS])
            sums += (digits.T @ digits).astype(np.int64)
        return sums


def _digits(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the high digits and the low digits side by side, shape (n, 2 k): y = (high 2^20 + low) 2^-24."""
    numbers = np.rint(rows * np.float64(2.0**STEP_BITS))
    high = np.rint(numbers * 2.0**-DIGIT_BITS)
    return np.hstack([high, numbers - high * 2.0**DIGIT_BITS])
