"""The best columns of each row: by score, ties to the lower column.

(score descending, column ascending) is a total order, so blocks can be merged in any grouping with one result. NaN and
minus infinity never win; a place that nothing fills holds score -inf and column -1.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lakefactor.errors import ShapeError

Ranked = tuple[NDArray[np.float32], NDArray[np.int32]]

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
    best = _empty(len(scores), k)
    _offer(np.ascontiguousarray(scores, np.float32), 0, *best)
    return best


def merge(first: Ranked, second: Ranked, k: int) -> Ranked:
    """Return the k best of two rankings of disjoint columns, row by row.

    Parameters
    ----------
    first, second : (scores, columns)
        Rankings as `top_k` returns them, shapes (b, any).
    k : int
        Places, >= 1.

    Examples
    --------
    >>> a = top_k(np.array([[5.0, 1.0]], np.float32), 2)
    >>> scores, columns = top_k(np.array([[5.0, 9.0]], np.float32), 2)
    >>> merge(a, (scores, columns + 2), 3)[1]
    array([[3, 0, 2]], dtype=int32)
    """
    scores = np.concatenate([first[0], second[0]], axis=1)
    columns = np.concatenate([first[1], second[1]], axis=1)
    order = np.lexsort((columns, -scores, columns < 0))[:, :k]
    best = _empty(len(scores), k)
    best[0][:, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
    best[1][:, : order.shape[1]] = np.take_along_axis(columns, order, axis=1)
    return best


def top_n(
    users: NDArray[np.float32],
    items: NDArray[np.float32],
    item_bias: NDArray[np.float32] | None,
    n: int,
    seen_indptr: NDArray[np.int64],
    seen_indices: NDArray[np.int32],
    allowed: NDArray[np.bool_] | None = None,
    item_block_rows: int = 8192,
) -> Ranked:
    """Return the n best items of each user by x'y + b_y, without the items that the user has seen.

    Parameters
    ----------
    users : float32 array, shape (b, k)
        User factors.
    items : float32 array, shape (m, k)
        Item factors.
    item_bias : float32 array, shape (m,), or None
        Added to the score. What a user adds to all items (bias, mean) does not change the ranking.
    n : int
        Places, >= 1.
    seen_indptr, seen_indices : int64 array, shape (b + 1,), and int32 array
        CSR rows of item numbers to leave out, ascending in each row (as `build_csr` makes them).
    allowed : bool array, shape (m,), or None
        Items that may be recommended; None allows all.
    item_block_rows : int
        Items scored at a time: memory is 4 * b * item_block_rows bytes.

    Returns
    -------
    (scores, columns)
        float32 and int32 arrays of shape (b, n), best first; -inf and -1 where fewer items remain.

    Raises
    ------
    ShapeError
        The arrays disagree.

    Examples
    --------
    >>> users, items = np.eye(2, dtype=np.float32), np.array([[3, 0], [2, 1], [1, 2]], np.float32)
    >>> top_n(users, items, None, 2, np.array([0, 1, 1]), np.array([0], np.int32))[1]
    array([[1, 2],
           [2, 1]], dtype=int32)
    """
    b, m = len(users), len(items)
    if users.shape[1:] != items.shape[1:] or len(seen_indptr) != b + 1 or n < 1 or item_block_rows < 1:
        raise ShapeError(
            f"top_n: users {users.shape}, items {items.shape}, {len(seen_indptr)} seen pointers, n {n}, "
            f"item_block_rows {item_block_rows}; the ranks must be equal, the pointers {b + 1}, the counts 1 or more."
        )
    if (item_bias is not None and len(item_bias) != m) or (allowed is not None and len(allowed) != m):
        raise ShapeError(f"top_n: item_bias and allowed must have one element for each of the {m} items.")
    best = _empty(b, n)
    cursor = np.array(seen_indptr[:-1], np.int64)
    for start in range(0, m, item_block_rows):
        block = slice(start, start + item_block_rows)
        scores = users @ items[block].T  # (b, block)
        if item_bias is not None:
            scores += item_bias[block]
        if allowed is not None:
            scores[:, ~allowed[block]] = -np.inf
        _leave_out(scores, start, seen_indptr, seen_indices, cursor)
        _offer(scores, start, *best)
    return best


def _empty(rows: int, k: int) -> Ranked:
    return np.full((rows, k), -np.inf, np.float32), np.full((rows, k), -1, np.int32)


@njit(nogil=True, cache=True)
def _leave_out(
    scores: NDArray[np.float32],
    first_column: int,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    cursor: NDArray[np.int64],
) -> None:
    """Set seen scores of a block to -inf; ``cursor`` remembers how far each row's list has been read."""
    stop = first_column + scores.shape[1]
    for row in range(scores.shape[0]):
        position = cursor[row]
        while position < indptr[row + 1] and indices[position] < stop:
            scores[row, indices[position] - first_column] = -np.inf
            position += 1
        cursor[row] = position


@njit(nogil=True, cache=True)
def _offer(
    scores: NDArray[np.float32],
    first_column: int,
    best_scores: NDArray[np.float32],
    best_columns: NDArray[np.int32],
) -> None:
    """Let a block of scores compete for the places; blocks come in ascending order of columns."""
    m, k = scores.shape[1], best_scores.shape[1]
    for row in range(scores.shape[0]):
        kept, columns, offered = best_scores[row], best_columns[row], scores[row]
        for start in range(0, m, _STRIDE):
            stop = min(start + _STRIDE, m)
            worst = kept[k - 1]
            winners = 0
            for j in range(start, stop):
                winners += offered[j] > worst
            if winners == 0:
                continue
            for j in range(start, stop):
                score = offered[j]
                if score > kept[k - 1]:  # an equal score loses to the lower column that came before
                    place = k - 1
                    while place > 0 and score > kept[place - 1]:
                        kept[place] = kept[place - 1]
                        columns[place] = columns[place - 1]
                        place -= 1
                    kept[place] = score
                    columns[place] = first_column + j
