"""The best items of users by the scores of factors, exactly.

A score is a float64 sum, rounded to float32: one number wherever and in whatever company it is computed, by a job, a
client or a database. The products that find the candidates are float32 and rounded in some order of the machine.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lakefactor.errors import ShapeError
from lakefactor.kernels.topk import Ranked, empty, no_candidates, offer, place, ranked

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

    Raises
    ------
    ShapeError
        The arrays disagree.

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
    ) -> None:
        m = len(items)
        if (bias is not None and len(bias) != m) or block_rows < 1:
            raise ShapeError(f"Ranker: a bias for each of the {m} items and block_rows of 1 or more are needed.")
        lengths = _lengths(items)
        self._items = np.ascontiguousarray(items, np.float32)
        self._bias = bias
        self._cosine, self._block_rows = cosine, block_rows
        self._scale = _inverse(lengths) if cosine else np.ones(m)
        # Long items first: scores that nothing later can reach are found early, and the rest of the items is not read.
        self._order = np.arange(m) if cosine else np.argsort(-lengths, kind="stable")
        self._left = _scaled(self._items, self._scale) if cosine else self._items[self._order]
        self._blocks = _blocks(
            np.ones(m) if cosine else lengths[self._order], _or_zeros(bias, m)[self._order], block_rows
        )

    def top(
        self,
        users: NDArray[np.float32],
        n: int,
        seen: tuple[NDArray[np.int64], NDArray[np.int32]],
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
        longest, largest_bias = (self._blocks[0].longest, self._blocks[0].largest_bias) if m else (0.0, 0.0)
        doubt = (users.shape[1] + 4) * UNIT * (reach * longest + largest_bias)
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

    def _candidates(
        self,
        users: NDArray[np.float32],
        n: int,
        seen: tuple[NDArray[np.int64], NDArray[np.int32]],
        allowed: NDArray[np.bool_] | None,
        reach: NDArray[np.float64],
        doubt: NDArray[np.float64],
    ) -> Ranked:
        """Return the best items by products in float32, without the users' biases.

        A block is left out for users whose n-th best it cannot reach: |x'y| <= |x| |y|.
        """
        kept, everyone = no_candidates(len(users), n), np.arange(len(users))
        indptr, indices = self._in_order(seen)
        cursor = np.array(indptr[:-1], np.int64)
        may = None if allowed is None else allowed[self._order]
        for block in self._blocks:
            rows = np.flatnonzero(kept.worst < reach * block.longest + block.largest_bias + doubt)
            if not len(rows):
                break
            some = slice(block.start, block.stop)
            scores = (users if len(rows) == len(everyone) else users[rows]) @ self._left[some].T
            if self._bias is not None:
                scores += block.bias
            if may is not None:
                scores[:, ~may[some]] = -np.inf
            _leave_out(scores, rows, block.start, indptr, indices, cursor)
            offer(scores, rows, block.start, n, kept)
        scores, positions = ranked(kept, n)
        if not len(self._order):
            return scores, positions
        return scores, np.where(positions >= 0, self._order[positions], -1).astype(np.int32)

    def _in_order(
        self, seen: tuple[NDArray[np.int64], NDArray[np.int32]]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return the rows of seen items as places in the order of lengths, ascending."""
        indptr, indices = seen
        if self._cosine or not len(indices):
            return seen
        places = self._place_of[indices]
        rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        return indptr, places[np.lexsort((places, rows))]

    @cached_property
    def _place_of(self) -> NDArray[np.int32]:
        places = np.empty(len(self._order), np.int32)
        places[self._order] = np.arange(len(self._order), dtype=np.int32)
        return places


class _Block(NamedTuple):
    """Items that are scored together: their place in the order, and what bounds their scores and all later ones."""

    start: int
    stop: int
    longest: float
    bias: NDArray[np.float32]
    largest_bias: float


def _blocks(lengths: NDArray[np.float64], bias: NDArray[np.float64], rows: int) -> list[_Block]:
    """Cut the items, in order of falling lengths, into blocks."""
    return [
        _Block(
            start,
            min(start + rows, len(lengths)),
            float(lengths[start]),
            bias[start : start + rows].astype(np.float32),
            float(np.abs(bias[start:]).max()),
        )
        for start in range(0, len(lengths), rows)
    ]


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
def _leave_out(
    scores: NDArray[np.float32],
    rows: NDArray[np.int64],
    first_column: int,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    cursor: NDArray[np.int64],
) -> None:
    """Set seen scores of a block to -inf; ``cursor`` remembers how far each row's list has been read.

    Blocks that were left out for a row are passed over in its list.
    """
    stop = first_column + scores.shape[1]
    for i in range(len(rows)):
        row = rows[i]
        position = cursor[row]
        while position < indptr[row + 1] and indices[position] < stop:
            if indices[position] >= first_column:
                scores[i, indices[position] - first_column] = -np.inf
            position += 1
        cursor[row] = position


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
