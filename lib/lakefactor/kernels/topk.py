"""The best columns of each row of scores: by score, ties to the lower column.

NaN and minus infinity never win; a place that nothing fills holds score -inf and column -1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ranked = tuple[NDArray[np.float32], NDArray[np.int32]]
"""Scores and columns of each row, shape (b, n), best first."""

Seen = tuple[NDArray[np.int64], NDArray[np.int32]]
"""CSR rows of columns to leave out, ascending in each row: pointers, shape (b + 1,), and columns."""

_STRIDE = 64
"""Scores tested together, vectorized, against the worst kept one; only a stride with a winner is looked at singly."""


def top_k(scores: NDArray[np.float32], k: int) -> Ranked:
    """Return the k best columns of each row of a score matrix.

    Parameters
    ----------
    scores : float32 array, shape (b, m)
        Scores; NaN and -inf never win.
    k : int
        Places, >= 1; may exceed m.

    Returns
    -------
    (scores, columns)
        float32 and int32 arrays of shape (b, k), best first; -inf and -1 where fewer columns can win.

    Examples
    --------
    >>> top_k(np.array([[1.0, 3.0, np.nan, 3.0]], np.float32), 2)[1]
    array([[1, 3]], dtype=int32)
    """
    kept = no_candidates(len(scores), k)
    offer(np.ascontiguousarray(scores, np.float32), np.arange(len(scores)), 0, k, kept)
    return ranked(kept, k)


class Candidates(NamedTuple):
    """What has been offered to each row so far, in no order, with room for as many again as it has places.

    Attributes
    ----------
    scores, columns : float32 and int32 array, shape (b, 2 k + 64)
    held : int64 array, shape (b,)
        How many there are.
    worst : float32 array, shape (b,)
        What a score must exceed: the k-th best when the row was last full; -inf before.
    """

    scores: NDArray[np.float32]
    columns: NDArray[np.int32]
    held: NDArray[np.int64]
    worst: NDArray[np.float32]


def no_candidates(rows: int, k: int) -> Candidates:
    """Return the candidates of rows that nothing has been offered to."""
    return Candidates(*empty(rows, 2 * k + _STRIDE), np.zeros(rows, np.int64), np.full(rows, -np.inf, np.float32))


def empty(rows: int, k: int) -> Ranked:
    """Return a ranking without any column."""
    return np.full((rows, k), -np.inf, np.float32), np.full((rows, k), -1, np.int32)


@njit(nogil=True, cache=True)
def offer(scores: NDArray[np.float32], rows: NDArray[np.int64], first_column: int, k: int, kept: Candidates) -> None:
    """Offer a block of scores to some rows; a row's blocks come in ascending order of columns.

    A row that is full is cut to its k best, which costs as much as was offered since: nothing is kept in order.
    """
    m, room = scores.shape[1], kept.scores.shape[1]
    for i in range(len(rows)):
        row, offered = rows[i], scores[i]
        own, columns, count, worst = kept.scores[row], kept.columns[row], kept.held[row], kept.worst[row]
        for start in range(0, m, _STRIDE):
            stop = min(start + _STRIDE, m)
            if stop - start == _STRIDE:
                winners = np.int32(0)
                for j in range(start, start + _STRIDE):
                    winners += np.int32(offered[j] > worst)
                if winners == 0:
                    continue
            if count + _STRIDE > room:
                _cut(own, columns, count, k)
                count, worst = k, own[:k].min()
            for j in range(start, stop):  # without a branch: which scores win cannot be foreseen
                own[count], columns[count] = offered[j], first_column + j
                count += offered[j] > worst  # an equal score loses to the lower column that came before
        kept.held[row], kept.worst[row] = count, worst


@njit(nogil=True, cache=True)
def ranked(kept: Candidates, k: int) -> Ranked:
    """Return the k best candidates of each row, best first."""
    b = len(kept.held)
    scores, columns = np.full((b, k), np.float32(-np.inf)), np.full((b, k), np.int32(-1))
    for row in range(b):
        own, places, count = kept.scores[row], kept.columns[row], kept.held[row]
        _cut(own, places, count, k)
        for j in range(min(count, k)):
            place(own[j], places[j], scores[row], columns[row])
    return scores, columns


@njit(nogil=True, cache=True)
def place(score: np.float32, column: int, scores: NDArray[np.float32], columns: NDArray[np.int32]) -> None:
    """Let one column compete for the places of a row, in any order of columns."""
    spot = len(scores)
    while spot > 0 and _before(score, column, scores[spot - 1], columns[spot - 1]):
        spot -= 1
        if spot + 1 < len(scores):
            scores[spot + 1], columns[spot + 1] = scores[spot], columns[spot]
    if spot < len(scores):
        scores[spot], columns[spot] = score, column


@njit(nogil=True, cache=True, inline="always")
def _before(score: np.float32, column: int, other: np.float32, other_column: int) -> bool:
    return bool(score > other or (score == other and score > -np.inf and column < other_column))


@njit(nogil=True, cache=True)
def _cut(scores: NDArray[np.float32], columns: NDArray[np.int32], count: int, k: int) -> None:
    """Bring the k best of the first ``count`` to the front, in no order (quickselect)."""
    low, high = 0, count - 1
    while low < high and k <= high:
        middle = (low + high) // 2
        pivot, pivot_column = scores[middle], columns[middle]
        i, j = low, high
        while i <= j:
            while _before(scores[i], columns[i], pivot, pivot_column):
                i += 1
            while _before(pivot, pivot_column, scores[j], columns[j]):
                j -= 1
            if i <= j:
                scores[i], scores[j] = scores[j], scores[i]
                columns[i], columns[j] = columns[j], columns[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            break
