"""Rows too heavy for one rank: their sums are made where their source rows lie.

An item that a large part of all users know would have one rank fetch all those users' factors and do the work of many.
A row with more entries than `limit` is *split* instead: every rank adds up sum_e w y y' and sum_e t y over the entries
whose source rows it owns, which needs no exchange of rows at all, and the k^2 + k sums of each split row are added over
the ranks. The owner then solves the row as any other, by the configured method.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lakefactor.comm import Communicator, all_gather
from lakefactor.errors import SolveError
from lakefactor.factorization.shard import Shard
from lakefactor.kernels import Method, System, build_csr, half_step
from lakefactor.types import INDEX_DTYPE, Side, other

LOAD_SHARE = 0.25
"""A row is split when it alone is more than this share of a rank's mean load; one row can then not unbalance a rank."""

_BLOCK_BYTES = 16 << 20
"""Bounds the work arrays of the sums."""


@dataclass(frozen=True)
class Split:
    """Entries of all ranks' split rows of one side, as far as this rank owns their source rows.

    Attributes
    ----------
    first : int
        Global number of this rank's first split row.
    count : int
        How many of this rank's rows are split: its first ones, as rows are ordered by entries.
    indptr, indices : int64, int32 ndarray
        CSR over the split rows of all ranks; ``indices`` are this rank's own source rows.
    strengths : float32 ndarray
    """

    first: int
    count: int
    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    strengths: NDArray[np.float32]

    @property
    def rows(self) -> int:
        """Split rows of all ranks."""
        return len(self.indptr) - 1


def limit(entries: int, size: int, columns: int, budget_rows: int) -> int:
    """Return how many entries a row may have before it is split.

    Parameters
    ----------
    entries : int
        Entries of all ranks.
    size : int
        Ranks W.
    columns : int
        Columns k of the factors: k rows weigh as much as the sums that a split row needs.
    budget_rows : int
        Source rows that fit the memory budget; 0 for no bound.

    Examples
    --------
    >>> limit(10**9, size=100, columns=64, budget_rows=0)
    2500000
    >>> limit(10**9, size=100, columns=64, budget_rows=1000)
    500
    """
    if size == 1:
        return entries
    balanced = max(int(LOAD_SHARE * entries / size), 4 * columns)
    return min(balanced, budget_rows // 2) if budget_rows else balanced


def find_split(comm: Communicator, shard: Shard, side: Side, most: int) -> Split:
    """Find the rows of ``side`` with more than ``most`` entries, and bring their entries to their source rows' owners.

    The entries are there already: they are the other side's, in the columns of the split rows.
    """
    rows, crossed = shard.rows[side], shard.rows[other(side)]
    count = int(np.count_nonzero(rows.n_entries > most))
    counts = all_gather(comm, np.array([count]))[:, 0]
    first, total = int(counts[: comm.proc_rank].sum()), int(counts.sum())
    if total == 0:
        return Split(0, 0, np.zeros(1, np.int64), np.empty(0, INDEX_DTYPE), np.empty(0, np.float32))
    numbers = np.full(len(rows.ids), -1, INDEX_DTYPE)
    numbers[:count] = np.arange(first, first + count, dtype=INDEX_DTYPE)
    row_of_column = shard.plans[side].fetch(comm, numbers)
    entries = np.flatnonzero((row_of_column >= 0)[crossed.indices])
    source = np.searchsorted(crossed.indptr, entries, side="right") - 1
    targets = row_of_column[crossed.indices[entries]]
    return Split(first, count, *build_csr(targets, source.astype(INDEX_DTYPE), crossed.strengths[entries], total))


def solve_split(
    comm: Communicator,
    split: Split,
    local: System,
    own: NDArray[np.float32],
    gramian: NDArray[np.float32],
    system: System,
    x: NDArray[np.float32],
    method: Method,
) -> tuple[NDArray[np.float64], int]:
    """Solve this rank's split rows in place; every rank calls this with its own source rows.

    Parameters
    ----------
    comm : Communicator
    split : Split
    local : System
        Weights and targets of the split's entries; its regularization is not used.
    own : float32 ndarray, shape (m, k)
        Source rows of this rank.
    gramian : float32 ndarray, shape (k, k)
    system : System
        Equations of this rank's rows, the split ones first: gives their regularization.
    x : float32 ndarray, shape (n, k)
        Rows ``[:split.count]`` are set.
    method : Method

    Returns
    -------
    values : float64 ndarray, shape (split.count,)
        As `half_step` returns them.
    failed : int
        How many of the rows are singular.
    """
    k = own.shape[1]
    values = np.zeros(split.count)
    failed = 0
    step = max(1, _BLOCK_BYTES // (8 * (k * k + k + 1)))
    for begin in range(0, split.rows, step):
        some = range(begin, min(begin + step, split.rows))
        sums = comm.all_reduce_sum(np.array([partial_sums(local, row, own) for row in some]))
        for row, total in zip(some, sums, strict=True):
            mine = row - split.first
            if not 0 <= mine < split.count:
                continue
            matrix = (gramian + total[: k * k].reshape(k, k)).astype(np.float32)
            rhs = total[k * k : -1].astype(np.float32)
            # One entry of weight 0 and target 1 whose source row is b: the same equation, for every solver.
            reg, reg_last = system.reg[mine : mine + 1], system.reg_last[mine : mine + 1]
            one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
            equation = System(np.array([0, 1]), np.zeros(1, np.int32), zero, one, reg, reg_last)
            try:
                value = half_step(equation, rhs[None], matrix, x[mine : mine + 1], method)
                values[mine] = value[0] + total[-1]
            except SolveError:
                failed += 1
    return values, failed


def partial_sums(local: System, row: int, own: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return sum w z z' (k^2), sum t z (k), and the constant that source biases add (1), of one row's local entries.

    z is the design row of `System`: the source row, its bias replaced by 1 where there is one.
    """
    k = own.shape[1]
    matrix, rhs, constant = np.zeros((k, k)), np.zeros(k), 0.0
    step = max(1, _BLOCK_BYTES // (16 * k))
    stop = local.indptr[row + 1]
    for begin in range(local.indptr[row], stop, step):
        block = slice(begin, min(begin + step, stop))
        z = own[local.indices[block]].astype(np.float64)
        w, t = local.weights[block].astype(np.float64), local.targets[block].astype(np.float64)
        if local.biased:
            bias = z[:, -1].copy()
            constant += float(bias @ (w * bias - 2 * t))
            t -= w * bias
            z[:, -1] = 1
        matrix += (z * w[:, None]).T @ z
        rhs += t @ z
    return np.concatenate([matrix.ravel(), rhs, [constant]])
