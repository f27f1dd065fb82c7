# mypy: allow-untyped-defs, allow-incomplete-defs
"""Compiled passes over a rank's entries that `shard` needs; each is linear in them.

Arrays are those of a CSR: int64 pointers, int32 indices, float32 values.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def count_peers(indptr, indices, ends, proc_rank):
    """Return how many ranks other than ``proc_rank`` own a column of each row, int32.

    Columns ascend within a row, and rank r owns those in [ends[r - 1], ends[r]).

    >>> count_peers(np.array([0, 3, 4]), np.array([0, 1, 5, 5], np.int32), np.array([1, 4, 9]), 0).tolist()
    [2, 1]
    """
    peers = np.zeros(len(indptr) - 1, np.int32)
    for row in range(len(peers)):
        owner, counted = 0, -1
        for entry in range(indptr[row], indptr[row + 1]):
            while indices[entry] >= ends[owner]:
                owner += 1
            if owner != counted:
                counted = owner
                peers[row] += owner != proc_rank
    return peers


@njit(nogil=True, cache=True)
def turn(indptr, indices, values, order, n_columns):
    """Return the transposed CSR of the rows taken in ``order``: its indices are positions in that order, ascending."""
    pointers = np.zeros(n_columns + 1, np.int64)
    for column in indices:
        pointers[column + 1] += 1
    for column in range(n_columns):
        pointers[column + 1] += pointers[column]
    cursor = pointers[:-1].copy()
    rows = np.empty(len(indices), np.int32)
    turned = np.empty(len(indices), np.float32)
    for position in range(len(order)):
        row = order[position]
        for entry in range(indptr[row], indptr[row + 1]):
            to = cursor[indices[entry]]
            cursor[indices[entry]] += 1
            rows[to] = position
            turned[to] = values[entry]
    return pointers, rows, turned


@njit(nogil=True, cache=True)
def number_in_place(numbers, n):
    """Replace numbers in [0, n) by their place among the distinct ones, ascending; return the distinct ones, int32.

    >>> numbers = np.array([7, 3, 7], np.int32)
    >>> number_in_place(numbers, 9).tolist(), numbers.tolist()
    ([3, 7], [1, 0, 1])
    """
    place = np.full(n, -1, np.int32)
    for number in numbers:
        place[number] = 0
    count = 0
    for number in range(n):
        if place[number] == 0:
            place[number] = count
            count += 1
    distinct = np.empty(count, np.int32)
    for number in range(n):
        if place[number] >= 0:
            distinct[place[number]] = number
    for entry in range(len(numbers)):
        numbers[entry] = place[numbers[entry]]
    return distinct


@njit(nogil=True, cache=True)
def merge_runs(indptr, rows, lengths, indices, values):
    """Lay runs of entries one behind the other in their rows; run i has ``lengths[i]`` entries and goes to rows[i]."""
    cursor = indptr[:-1].copy()
    merged = np.empty(len(indices), np.int32)
    merged_values = np.empty(len(indices), np.float32)
    start = 0
    for run in range(len(rows)):
        to = cursor[rows[run]]
        for entry in range(lengths[run]):
            merged[to + entry] = indices[start + entry]
            merged_values[to + entry] = values[start + entry]
        cursor[rows[run]] += lengths[run]
        start += lengths[run]
    return merged, merged_values
