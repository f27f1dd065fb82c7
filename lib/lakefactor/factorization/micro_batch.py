"""One micro-batch on the live model: users, then items against the new users, then users that met a new item.

Rows are solved in order of their ids, and a row's entries are summed in order of theirs; with the live model's exact
Gramians this makes the result, to the bit, a function of the model's rows and the batch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakefactor.config import Stream
from lakefactor.errors import ShapeError
from lakefactor.factorization.coding import coded
from lakefactor.factorization.live_model import LiveModel
from lakefactor.factorization.row_entries import Entries, Int64s
from lakefactor.factorization.update_rules import Updated, rule_of, update
from lakefactor.kernels import build_csr
from lakefactor.types import FACTOR_DTYPE, INDEX_DTYPE, SIDES, Side, other


def solve_batch(
    live: LiveModel,
    changes: pa.Table,
    histories: dict[Side, pa.Table | None],
    settings: Stream,
    threads: int = 1,
) -> dict[Side, Updated]:
    """Bring the live model up to date with the interactions that changed; return the rows that did.

    Parameters
    ----------
    live : LiveModel
        Changed in place; where an error is raised, nothing but rows of zeros was added. New users and items get rows,
        unless their side is `off`.
    changes : pyarrow Table
        ``user_id, item_id, before, after``: each pair whose strength may have changed, once; null (or NaN) where there
        is no interaction: ``before`` of a new pair, ``after`` of a removed one. Where both are the same, nothing pulls.
    histories : dict of pyarrow Table or None
        ``user_id, item_id, strength``: all interactions, as they are now, of each row of a side that ``changes``
        names, heavy ones (`update_rules.is_heavy`) and other rows may be left out. Needed where the side's rule is
        `exact`. Interactions with users or items that have no factors and are not in ``changes`` are left out.
    settings : Stream
    threads : int

    Returns
    -------
    dict of Updated
        For each side that is not `off`, its rows in ``changes`` in order of their ids.

    Raises
    ------
    ConfigError, InputError, ShapeError, SolveError
        As `update_rules.update` and `LiveModel.replace`.
    """
    sides = [side for side in SIDES if rule_of(settings, side) != "off"]
    were_new = {side: _add_rows(live, side, changes[f"{side}_id"]) for side in sides}
    batch = {side: _Touched(live, side, changes, histories.get(side), settings) for side in sides}
    updated: dict[Side, Updated] = {}
    before = {side: _present(live, side, batch[side].rows) for side in sides}
    try:
        for side in sides:
            updated[side] = batch[side].solve(live, settings, threads)
            _put(live, side, updated[side])
        if len(sides) == 2:
            met = batch["user"].meeting(were_new["item"])
            _restore(live, "user", before["user"], updated["user"], met)  # rules go from what a user was before
            again = batch["user"].solve(live, settings, threads, met)
            _put(live, "user", again)
            updated["user"] = _merged(updated["user"], again, met)
    except Exception:
        for side, some in updated.items():
            _restore(live, side, before[side], some, np.arange(len(some.rows)))
        raise
    # As the live model has them: tempered items are rounded there.
    return {side: replace(some, factors=live.source(side)[some.rows]) for side, some in updated.items()}


def solve_anew(live: LiveModel, side: Side, history: pa.Table, settings: Stream, threads: int = 1) -> Updated:
    """Return what `exact` makes of some known rows, whatever the side's rule is; the live model is not changed.

    Parameters
    ----------
    live : LiveModel
    side : {"user", "item"}
    history : pyarrow Table
        ``user_id, item_id, strength``: all interactions of the rows. Those with unknown ids are left out.
    settings : Stream
        ``rho`` and ``huber``.
    threads : int
    """
    exactly = settings.model_copy(
        update={f"{side}_rule": "exact", "max_change": 0.0, "exact_max_entries": np.iinfo(np.int64).max}
    )
    unchanged = history.append_column("after", history["strength"]).append_column("before", history["strength"])
    return _Touched(live, side, unchanged, history, exactly).solve(live, exactly, threads)


class _Touched:
    """The rows of a side that a micro-batch names, by id, with their entries."""

    def __init__(
        self, live: LiveModel, side: Side, changes: pa.Table, history: pa.Table | None, settings: Stream
    ) -> None:
        self.side = side
        self.rows = live.numbers(side, sorted(coded(changes[f"{side}_id"])[0].to_pylist()))
        self._place = np.full(live.size(side), -1, np.int64)
        self._place[self.rows] = np.arange(len(self.rows))
        self.recent = self._entries(live, changes, "after", "before")
        self.history = None
        if rule_of(settings, side) == "exact" and history is not None:
            self.history = self._entries(live, history, "strength")

    def _entries(self, live: LiveModel, table: pa.Table, strength: str, before: str = "") -> Entries:
        """Return the table's entries of the touched rows, in order of the other side's ids."""
        own = live.rows(self.side, table[f"{self.side}_id"])
        own = np.where(own >= 0, self._place[own], -1)
        # Columns are places in the order of ids, which unlike row numbers does not depend on what was added first.
        found, code = coded(table[f"{other(self.side)}_id"])
        distinct = found.to_pylist()
        order = np.array(sorted(range(len(distinct)), key=distinct.__getitem__), np.int64)
        place = np.empty(len(order), INDEX_DTYPE)
        place[order] = np.arange(len(order))
        opposite = live.numbers(other(self.side), distinct)[order].astype(INDEX_DTYPE)
        column = place[code]
        known = (own >= 0) & (opposite[column] >= 0)
        if before:
            known &= _floats(table[strength]) != _floats(table[before])  # a late or repeated event may change nothing
        own, column = own[known], column[known]
        indptr, indices, strengths = build_csr(own, column, _floats(table[strength])[known], len(self.rows))
        entries = Entries(indptr, opposite[indices], strengths)
        if np.any((np.diff(indices) == 0) & (np.diff(entries.owners) == 0)):
            raise ShapeError(f"a pair of user and item is there twice in {table.num_rows} rows; each must be once.")
        if before:
            earlier = build_csr(own, column, _floats(table[before])[known], len(self.rows))[2]
            entries = replace(entries, before=earlier)
        return entries

    def solve(
        self, live: LiveModel, settings: Stream, threads: int, some: NDArray[np.integer] | None = None
    ) -> Updated:
        """Return what the side's rule makes of the rows, or of those at some positions."""
        if some is None:
            some = np.arange(len(self.rows))
        history = None if self.history is None else self.history.take(some)
        return update(live, self.side, self.rows[some], history, self.recent.take(some), settings, threads)

    def meeting(self, rows: Int64s) -> NDArray[np.intp]:
        """Return the positions of the rows with a changed entry of one of the other side's ``rows``."""
        return np.unique(self.recent.owners[np.isin(self.recent.indices, rows)])


def _add_rows(live: LiveModel, side: Side, ids: pa.ChunkedArray) -> Int64s:
    """Add the unknown ids; return the rows among those of ``ids`` that were never solved."""
    rows = np.unique(live.add(side, ids))
    return rows[live.n_entries(side, rows) == 0]


def _present(live: LiveModel, side: Side, rows: Int64s) -> Updated:
    """Return some rows as they are."""
    none, state = np.zeros(len(rows), np.int64), live.state(side, rows)
    return Updated(
        rows, live.source(side)[rows], live.n_entries(side, rows), np.full(len(rows), ""), state, none > 0, none
    )


def _put(live: LiveModel, side: Side, updated: Updated) -> None:
    live.replace(side, updated.rows, updated.factors, updated.n_entries, updated.optimizer_state)


def _restore(live: LiveModel, side: Side, before: Updated, after: Updated, some: NDArray[np.integer]) -> None:
    """Put some of the rows back to what they were; an optimizer's state that was not there to zeros."""
    state = before.optimizer_state
    if state is None and after.optimizer_state is not None:
        state = np.zeros_like(after.optimizer_state)
    old = None if state is None else state[some]
    live.replace(side, before.rows[some], before.factors[some], before.n_entries[some], old)


def _merged(first: Updated, again: Updated, some: NDArray[np.integer]) -> Updated:
    """Return the rows of ``first``, those at some positions as ``again`` has them."""
    merged: dict[str, Any] = {}
    for name in ("factors", "n_entries", "rules", "optimizer_state", "bounded", "huber"):
        array = getattr(first, name)
        if array is not None:
            array = array.copy()
            array[some] = getattr(again, name)
        merged[name] = array
    return replace(first, **merged)


def _floats(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Return a column, NaN for nulls."""
    return column.to_numpy().astype(FACTOR_DTYPE)
