"""Candidates of a ranking by products in float32, on the CPU: block by block, long items first."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lakefactor.kernels.topk import Ranked, Seen, no_candidates, offer, ranked


class BlockedCandidates:
    """Finds the best items of users by x'y + b_y; what float32 rounds is for others to settle.

    Parameters
    ----------
    items : float32 array, shape (m, k)
    lengths : float64 array, shape (m,)
        Of the items.
    bias : float32 array, shape (m,), or None
    block_rows : int
        Items scored at a time.
    """

    def __init__(
        self,
        items: NDArray[np.float32],
        lengths: NDArray[np.float64],
        bias: NDArray[np.float32] | None,
        block_rows: int,
    ) -> None:
        # Long items first: scores that nothing later can reach are found early, and the rest of the items is not read.
        self._sorted = bool((lengths[1:] <= lengths[:-1]).all())
        self._order = np.arange(len(items)) if self._sorted else np.argsort(-lengths, kind="stable")
        self._items = items if self._sorted else items[self._order]
        of_items = np.zeros(len(items), np.float32) if bias is None else bias[self._order].astype(np.float32)
        self._biased = bias is not None
        self._blocks = _blocks(lengths[self._order], of_items, block_rows)

    def __call__(
        self,
        users: NDArray[np.float32],
        n: int,
        seen: Seen,
        allowed: NDArray[np.bool_] | None,
        lengths: NDArray[np.float64],
        doubt: NDArray[np.float64],
    ) -> Ranked:
        """Return the n best columns of each user, best first, and their products.

        Parameters
        ----------
        users, n, seen, allowed
            As for `Ranker.top`.
        lengths : float64 array, shape (b,)
            Of the users.
        doubt : float64 array, shape (b,)
            Largest rounding error of a user's products.

        Notes
        -----
        A block is left out for users whose n-th best it cannot reach: |x'y| <= |x| |y|.
        """
        kept = no_candidates(len(users), n)
        indptr, indices = self._in_order(seen)
        cursor = np.array(indptr[:-1], np.int64)
        may = None if allowed is None else allowed[self._order]
        for block in self._blocks:
            rows = np.flatnonzero(kept.worst < lengths * block.longest + block.largest_bias + doubt)
            if not len(rows):
                break
            some = slice(block.start, block.stop)
            scores = (users if len(rows) == len(users) else users[rows]) @ self._items[some].T
            if self._biased:
                scores += block.bias
            if may is not None:
                scores[:, ~may[some]] = -np.inf
            _leave_out(scores, rows, block.start, indptr, indices, cursor)
            offer(scores, rows, block.start, n, kept)
        scores, positions = ranked(kept, n)
        if not len(self._order):
            return scores, positions
        return scores, np.where(positions >= 0, self._order[positions], -1).astype(np.int32)

    def _in_order(self, seen: Seen) -> Seen:
        """Return the rows of seen items as places in the order of lengths, ascending."""
        indptr, indices = seen
        if self._sorted or not len(indices):
            return seen
        places = self._place_of[indices]
        rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        return indptr, places[np.lexsort((places, rows))]

    @cached_property
    def _place_of(self) -> NDArray[np.int32]:
        return np.argsort(self._order).astype(np.int32)  # the inverse of a permutation


class _Block(NamedTuple):
    """Items that are scored together: their place in the order, and what bounds their scores and all later ones."""

    start: int
    stop: int
    longest: float
    bias: NDArray[np.float32]
    largest_bias: float


def _blocks(lengths: NDArray[np.float64], bias: NDArray[np.float32], rows: int) -> list[_Block]:
    """Cut the items, in order of falling lengths, into blocks."""
    return [
        _Block(
            start,
            min(start + rows, len(lengths)),
            float(lengths[start]),
            bias[start : start + rows],
            float(np.abs(bias[start:]).max()),
        )
        for start in range(0, len(lengths), rows)
    ]


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
