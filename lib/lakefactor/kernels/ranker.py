"""The best items of users by the scores of factors, exactly.

A score is a float64 sum, rounded to float32: one number wherever and in whatever company it is computed, by a job, a
client or a database. The products that find the candidates are float32 and rounded in some order of the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lakefactor.errors import ShapeError
from lakefactor.kernels._blocked import BlockedCandidates
from lakefactor.kernels.backends import Backend
from lakefactor.kernels.topk import Ranked, Seen, empty, place

SPARE = 32
"""Candidates beyond n, so that the rounding of products rarely leaves a doubt about the n-th."""

UNIT = 2.0**-24
"""Largest relative rounding error of float32."""


class Ranker:
    """Ranks all items for users by x'y + b_x + b_y, or by the cosine of x and y.

    Parameters
    ----------
    items : float32 array, shape (m, k)
        Item factors y.
    bias : float32 array, shape (m,), or None
        Added to an item's score.
    cosine : bool
        Score by x'y / (|x| |y|) instead of x'y, 0 where either is zero.
    block_rows : int
        Items scored at a time: memory is 4 * b * block_rows bytes for b users.
    backend, device : str
        Where products are made, as for `backends.prepare`: ``auto`` is torch where ``device`` is another than the CPU.
        The result is the same.

    Raises
    ------
    ShapeError
        The arrays disagree.
    SetupError
        torch has no such device here.

    Examples
    --------
    >>> users, items = np.eye(2, dtype=np.float32), np.array([[3, 0], [2, 1], [1, 2]], np.float32)
    >>> Ranker(items).top(users, 2, (np.array([0, 1, 1]), np.array([0], np.int32)))[1]
    array([[1, 2],
           [2, 1]], dtype=int32)
    """

    def __init__(
        self,
        items: NDArray[np.float32],
        bias: NDArray[np.float32] | None = None,
        *,
        cosine: bool = False,
        block_rows: int = 2048,
        backend: Backend = "auto",
        device: str = "cpu",
    ) -> None:
        m = len(items)
        if (bias is not None and len(bias) != m) or block_rows < 1:
            raise ShapeError(f"Ranker: a bias for each of the {m} items and block_rows of 1 or more are needed.")
        lengths = _lengths(items)
        self._items = np.ascontiguousarray(items, np.float32)
        self._bias = bias
        self._cosine = cosine
        self._scale = _inverse(lengths) if cosine else np.ones(m)
        left = _scaled(self._items, self._scale) if cosine else self._items
        reach = np.ones(m) if cosine else lengths
        self._longest = float(reach.max(initial=0.0))
        self._largest_bias = 0.0 if bias is None else float(np.abs(bias).max(initial=0.0))
        if backend == "numba" or (backend == "auto" and device == "cpu"):
            self._candidates: Callable[..., Ranked] = BlockedCandidates(left, reach, bias, block_rows)
        else:
            from lakefactor.kernels.torch_candidates import TorchCandidates  # torch takes seconds to import

            self._candidates = TorchCandidates(left, bias, device)

    def top(
        self,
        users: NDArray[np.float32],
        n: int,
        seen: Seen,
        *,
        bias: NDArray[np.float64] | None = None,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Ranked:
        """Return the n best items of each user, without the items that the user has seen.

        Parameters
        ----------
        users : float32 array, shape (b, k)
            User factors x.
        n : int
            Places, >= 1.
        seen : (int64 array, shape (b + 1,), int32 array)
            CSR rows of item numbers to leave out, ascending in each row (as `build_csr` makes them).
        bias : float64 array, shape (b,), or None
            Added to a user's scores.
        allowed : bool array, shape (m,), or None
            Items that may be recommended; None allows all.

        Returns
        -------
        (scores, columns)
            float32 and int32 arrays of shape (b, n), best first; -inf and -1 where fewer items remain. A score is
            summed in float64 and rounded once, so neither the other users nor the blocks change it, and equal items
            tie.

        Raises
        ------
        ShapeError
            The arrays disagree.

        Notes
        -----
        Products in float32 choose n + 32 candidates, whose scores are then computed. An item that was not chosen has at
        most the score of the worst candidate and its rounding error, (k + 4) 2^-24 (|x| max |y| + max |b_y|); where
        that could reach the n-th, the row is done again over all items.
        """
        m, b, (indptr, indices) = len(self._items), len(users), seen
        if users.shape[1:] != self._items.shape[1:] or len(indptr) != b + 1 or n < 1:
            raise ShapeError(
                f"Ranker: users {users.shape}, items {self._items.shape}, {len(indptr)} seen pointers, n {n}; the "
                f"ranks must be equal, the pointers {b + 1}, n 1 or more."
            )
        if (allowed is not None and len(allowed) != m) or (bias is not None and len(bias) != b):
            raise ShapeError(f"Ranker: allowed must have {m} elements, one for each item, and bias {b}.")
        users = np.ascontiguousarray(users, np.float32)
        pairs = self._pairs(users, bias)
        left = _scaled(users, pairs.user_scale) if self._cosine else users
        reach = np.ones(b) if self._cosine else _lengths(users)
        doubt = (users.shape[1] + 4) * UNIT * (reach * self._longest + self._largest_bias)
        candidates = self._candidates(left, n + SPARE, seen, allowed, reach, doubt)
        best = empty(b, n)
        _settle(
            pairs,
            np.ones(m, np.bool_) if allowed is None else allowed,
            indptr,
            indices,
            *candidates,
            doubt,
            *best,
        )
        return best

    def scores(
        self, users: NDArray[np.float32], columns: NDArray[np.int32], bias: NDArray[np.float64] | None = None
    ) -> NDArray[np.float32]:
        """Return the scores of some items of each user, as `top` has them.

        Parameters
        ----------
        users : float32 array, shape (b, k)
        columns : int32 array, shape (b, n)
            Items of each user.
        bias : float64 array, shape (b,), or None

        Returns
        -------
        float32 array, shape (b, n)
        """
        users = np.ascontiguousarray(users, np.float32)
        return _scores(self._pairs(users, bias), np.ascontiguousarray(columns, np.int32))

    def _pairs(self, users: NDArray[np.float32], bias: NDArray[np.float64] | None) -> _Pairs:
        b, m = len(users), len(self._items)
        scale = _inverse(_lengths(users)) if self._cosine else np.ones(b)
        own, of_items = (_or_zeros(extra, n) for extra, n in ((bias, b), (self._bias, m)))
        return _Pairs(users, self._items, own, of_items, scale, self._scale)


class _Pairs(NamedTuple):
    """What a score is made of: (x'y) c_x c_y + (b_x + b_y)."""

    users: NDArray[np.float32]
    items: NDArray[np.float32]
    user_bias: NDArray[np.float64]
    item_bias: NDArray[np.float64]
    user_scale: NDArray[np.float64]
    item_scale: NDArray[np.float64]


def _lengths(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.sqrt(np.einsum("rk,rk->r", rows, rows, dtype=np.float64))


def _inverse(lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / length, and 0 of a zero."""
    return np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)


def _scaled(rows: NDArray[np.float32], scale: NDArray[np.float64]) -> NDArray[np.float32]:
    return (rows * scale[:, None]).astype(np.float32)


def _or_zeros(bias: NDArray[np.floating] | None, n: int) -> NDArray[np.float64]:
    return np.zeros(n) if bias is None else bias.astype(np.float64)


@njit(nogil=True, cache=True)
def _settle(
    pairs: _Pairs,
    allowed: NDArray[np.bool_],
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    candidate_scores: NDArray[np.float32],
    candidates: NDArray[np.int32],
    doubt: NDArray[np.float64],
    best_scores: NDArray[np.float32],
    best_columns: NDArray[np.int32],
) -> None:
    """Rank the candidates by their scores; where one that is no candidate might belong among them, rank all items."""
    n, m, last = best_scores.shape[1], len(pairs.items), candidates.shape[1] - 1
    for row in range(len(pairs.users)):
        for j in range(last + 1):
            if candidates[row, j] >= 0:
                place(_score(pairs, row, candidates[row, j]), candidates[row, j], best_scores[row], best_columns[row])
        if last + 1 >= m or candidates[row, last] < 0:
            continue  # every item that may win is a candidate
        worst = best_scores[row, min(n, last + 1) - 1] - pairs.user_bias[row]
        rounding = 4 * UNIT * (abs(worst) + abs(pairs.user_bias[row]))
        if candidate_scores[row, last] + doubt[row] + rounding < worst:
            continue
        best_scores[row, :], best_columns[row, :] = -np.inf, -1
        position = indptr[row]
        for column in range(m):
            if position < indptr[row + 1] and indices[position] == column:
                position += 1
            elif allowed[column]:
                place(_score(pairs, row, column), column, best_scores[row], best_columns[row])


@njit(nogil=True, cache=True)
def _scores(pairs: _Pairs, columns: NDArray[np.int32]) -> NDArray[np.float32]:
    result = np.empty(columns.shape, np.float32)
    for row in range(columns.shape[0]):
        for j in range(columns.shape[1]):
            result[row, j] = _score(pairs, row, columns[row, j])
    return result


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _score(pairs: _Pairs, row: int, column: int) -> np.float32:
    """Return a score; its float64 sum may be taken in any order, which all but never shows after rounding."""
    x, y = pairs.users[row], pairs.items[column]
    total = 0.0
    for f in range(len(x)):
        total += np.float64(x[f]) * np.float64(y[f])
    total *= pairs.user_scale[row] * pairs.item_scale[column]
    return np.float32(total + (pairs.user_bias[row] + pairs.item_bias[column]))
