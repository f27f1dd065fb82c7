"""A half-step in stages: how the source rows that a rank needs pass through a bounded panel.

The target rows of a rank are cut into contiguous blocks, one for each stage. *Head* rows (popular: needed by many
stages) stay in the panel for the whole half-step; every stage fetches its *tail*, the other source rows that it needs,
into one of two buffers: while stage s is solved out of one, the tail of stage s + 1 travels into the other::

    panel  [ head | tail of stages 0, 2, .. | tail of stages 1, 3, .. ]

The panel has head + 2 * longest tail rows, at most ``budget_rows`` where that is set. Without a bound, or where all
needed rows fit, there is one stage, all rows are head, and the CSR's own indices are used as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lakefactor.comm import Communicator, all_gather, exchange_parts
from lakefactor.factorization.plan import Plan, make_plan
from lakefactor.factorization.wire import Wire
from lakefactor.types import INDEX_DTYPE

HEAD_SHARES = 8
"""Head sizes that are tried: 0/8, 1/8 .. 7/8 of the budget."""


@dataclass(frozen=True)
class Schedule:
    """The stages of one side's half-step on one rank; every rank has as many.

    Attributes
    ----------
    plan : Plan
        Fetch of all source rows (one stage), or of the head.
    tails : list of Plan
        Fetch of each stage; empty where there is one stage.
    bounds : int64 ndarray, shape (stages + 1,)
        Target rows of stage s are [bounds[s], bounds[s + 1]); rows before bounds[0] are not solved here.
    indices : int32 ndarray
        Panel rows of the entries of these target rows.
    """

    plan: Plan
    tails: list[Plan]
    bounds: NDArray[np.int64]
    indices: NDArray[np.int32]

    @property
    def stages(self) -> int:
        """Number of stages, >= 1."""
        return len(self.bounds) - 1

    @property
    def tail_rows(self) -> int:
        """Rows of one tail buffer."""
        return max((tail.rows for tail in self.tails), default=0)

    @property
    def panel_rows(self) -> int:
        """Rows of the panel."""
        return self.plan.rows + 2 * self.tail_rows

    def start(self, comm: Communicator, own: NDArray[Any], wire: Wire = "float32") -> Iterator[NDArray[Any]]:
        """Begin the half-step's first fetch, and return an iterator over the panel as each stage needs it.

        Every stage must be taken, by every rank: the fetch of the next one starts when a stage is handed out.
        """
        if comm.size == 1 and not self.tails:
            return iter([own])
        panel = np.empty((self.panel_rows, *own.shape[1:]), own.dtype)
        head, buffers = panel[: self.plan.rows], panel[self.plan.rows :]
        pending = [self.plan.start(comm, own, head, wire)]

        def fetch(stage: int) -> None:
            if stage < len(self.tails):
                first = (stage % 2) * self.tail_rows
                rows = buffers[first : first + self.tails[stage].rows]
                pending.append(self.tails[stage].start(comm, own, rows, wire))

        def stages() -> Iterator[NDArray[Any]]:
            for stage in range(self.stages):
                while pending:
                    pending.pop(0).wait()
                fetch(stage + 1)
                yield panel

        fetch(0)
        return stages()


def make_schedule(
    comm: Communicator,
    plan: Plan,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    n_own: int,
    budget_rows: int = 0,
    first: int = 0,
) -> Schedule:
    """Cut a half-step into the fewest stages that keep to the budget; every rank calls this.

    Parameters
    ----------
    comm : Communicator
    plan : Plan
        Brings all source rows of the CSR rows.
    indptr, indices : int64, int32 ndarray
        CSR rows of the target side; ``indices`` are rows of the plan's panel.
    n_own : int
        Source rows that this rank owns.
    budget_rows : int
        Longest panel in rows; 0 for no bound. No target row from ``first`` on may need more than half of it.
    first : int
        Target rows before this one are solved elsewhere, and nothing is fetched for them.
    """
    if comm.size == 1:  # every source row is at hand already
        return Schedule(plan, [], np.array([first, len(indptr) - 1]), indices[indptr[first] :])
    starts, entries = indptr[first:] - indptr[first], indices[indptr[first] :]
    degrees = np.bincount(entries, minlength=plan.rows)
    fits = budget_rows == 0 or np.count_nonzero(degrees) <= budget_rows
    if fits:
        is_head, ends = degrees > 0, np.array([len(starts) - 1])
    else:
        is_head, ends = _cut(starts, entries, degrees, budget_rows)
    mine = np.array([len(ends), first > 0], dtype=np.int64)
    stages, restricted = all_gather(comm, mine).max(axis=0)
    if stages == 1 and not restricted:
        return Schedule(plan, [], np.array([0, len(indptr) - 1]), indices)
    bounds = np.concatenate([[0], ends, np.full(stages - len(ends), len(starts) - 1)]).astype(np.int64)
    columns = [np.flatnonzero(is_head)]
    if stages > 1:
        columns += list(_tails(starts, entries, is_head, bounds))
    plans = _plans(comm, plan, columns, n_own)
    (head, in_head), *tails = plans
    tail_rows = max((tail.rows for tail, _ in tails), default=0)
    slots = np.empty(plan.rows, INDEX_DTYPE)
    slots[in_head] = np.arange(head.rows, dtype=INDEX_DTYPE)
    panel_indices = np.empty_like(entries)
    for stage in range(stages):
        if tails:
            _, in_tail = tails[stage]
            begin = head.rows + stage % 2 * tail_rows
            slots[in_tail] = np.arange(begin, begin + len(in_tail), dtype=INDEX_DTYPE)
        some = slice(starts[bounds[stage]], starts[bounds[stage + 1]])
        panel_indices[some] = slots[entries[some]]
    return Schedule(head, [tail for tail, _ in tails], bounds + first, panel_indices)


def _tails(
    starts: NDArray[np.int64], entries: NDArray[np.int32], is_head: NDArray[np.bool_], bounds: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Yield the columns that each stage needs beside the head."""
    for begin, end in zip(starts[bounds[:-1]], starts[bounds[1:]], strict=True):
        needed = np.zeros(len(is_head), bool)
        needed[entries[begin:end]] = True
        yield np.flatnonzero(needed & ~is_head)


def _plans(
    comm: Communicator, plan: Plan, columns: list[NDArray[np.int64]], n_own: int
) -> list[tuple[Plan, NDArray[np.int64]]]:
    """Make a plan for each fetch of some of a plan's columns; return each with its columns in panel order."""
    starts = np.cumsum(plan.recv_counts) - plan.recv_counts
    asked = [np.split(some, np.searchsorted(some, starts[1:])) for some in columns]
    counts = np.array([[len(part) for part in parts] for parts in asked], dtype=np.int64)
    requests = [
        np.concatenate([parts[owner] - starts[owner] for parts in asked]).astype(INDEX_DTYPE)
        for owner in range(comm.size)
    ]
    lengths = exchange_parts(comm, [counts[:, owner].copy() for owner in range(comm.size)])
    received = exchange_parts(comm, requests)
    wanted = [
        np.split(rows[offsets], np.cumsum(length)[:-1])
        for rows, offsets, length in zip(plan.served(comm.proc_rank), received, lengths, strict=True)
    ]
    plans = []
    for number, some in enumerate(columns):
        fetch, order = make_plan(comm, [parts[number] for parts in wanted], n_own)
        plans.append((fetch, some[order]))
    return plans


def _cut(
    starts: NDArray[np.int64], entries: NDArray[np.int32], degrees: NDArray[np.int64], budget_rows: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return the head, and the end of each stage's block of rows: fewest stages, then fewest rows fetched."""
    by_degree = np.argsort(-degrees, kind="stable")
    best: tuple[tuple[int, int], NDArray[np.bool_], NDArray[np.int64]] | None = None
    for eighths in range(HEAD_SHARES):
        head_rows = budget_rows * eighths // HEAD_SHARES
        is_head = np.zeros(len(degrees), bool)
        is_head[by_degree[:head_rows]] = True
        ends, fetched = _blocks(starts, entries, is_head, (budget_rows - head_rows) // 2)
        if len(ends) and (best is None or (len(ends), fetched + head_rows) < best[0]):
            best = (len(ends), fetched + head_rows), is_head, ends
    assert best is not None, "a row needs more than half of the budget: it must be split"
    return best[1], best[2]


@njit(nogil=True, cache=True)
def _blocks(
    starts: NDArray[np.int64], entries: NDArray[np.int32], is_head: NDArray[np.bool_], capacity: int
) -> tuple[NDArray[np.int64], int]:
    """Fill one stage after the other with rows until its tail is full; no ends where a single row does not fit."""
    ends = []
    seen = np.full(len(is_head), -1, np.int64)
    stage, used, fetched = 0, 0, 0
    for row in range(len(starts) - 1):
        new, alone = 0, 0
        for entry in range(starts[row], starts[row + 1]):
            column = entries[entry]
            if not is_head[column]:
                alone += 1
                new += seen[column] != stage
        if alone > capacity:
            return np.empty(0, np.int64), 0
        if used + new > capacity:
            ends.append(row)
            fetched += used
            stage, used, new = stage + 1, 0, alone
        used += new
        for entry in range(starts[row], starts[row + 1]):
            seen[entries[entry]] = stage
    ends.append(len(starts) - 1)
    return np.array(ends), fetched + used
