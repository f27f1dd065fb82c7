"""Strengths of some pairs, in memory: the rule of `pipelines.interactions`, for as many events as a micro-batch needs.

What takes Spark seconds to plan and to shuffle is one sort here. The events of a pair are added up in order of their
shares, so a strength is the same to the bit however the table of events is laid out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakefactor.config import Config
from lakefactor.factorization.coding import coded, invert

MICROS_PER_DAY = 86_400_000_000
_UNTIMED = -(2**61)
"""Microseconds that are added to when an event without a time was ingested: it comes before all that have one."""

Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Span:
    """What all events have in common: their types, and oldest and newest time (epoch microseconds, None: no times).

    Decay is measured back from the newest; events that are newer still weigh more than 1.
    """

    types: frozenset[str]
    oldest: int | None
    newest: int | None

    def record(self) -> dict[str, Any]:
        """Return it as `recorded` reads it, JSON-able."""
        return {"types": sorted(self.types), "oldest": self.oldest, "newest": self.newest}

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> Span:
        """Return what the commit of `interactions` says of the events that they were made from."""
        return cls(frozenset(record["types"]), record["oldest"], record["newest"])


def settings_of(config: Config) -> dict[str, Any]:
    """Return every setting that strengths depend on, JSON-able."""
    settings: dict[str, Any] = {"feedback": config.feedback, "delete": config.ingest.delete_event_type}
    if config.feedback == "implicit":
        settings |= {"weights": config.ingest.event_weights, **config.interactions.model_dump()}
    return settings


class Strengths(NamedTuple):
    """Pairs that have an interaction, ascending, and the strength of each (float64)."""

    pair: Int64s
    strength: NDArray[np.float64]

    def of(self, pair: Int64s) -> NDArray[np.float64]:
        """Return the strengths of some pairs, NaN where there is no interaction."""
        place = np.searchsorted(self.pair, pair)
        found = np.append(self.strength, np.nan)
        return np.where(np.append(self.pair, -1)[place] == pair, found[place], np.nan)


class PairEvents:
    """Events, each with a number for its pair of user and item.

    Parameters
    ----------
    events : pyarrow Table
        ``event_id, user_id, item_id, event_type, value, event_time, ingested_at``, as `events` has them.
    config : Config
        ``feedback``, ``interactions``, ``ingest``.
    span : Span
        Of the events that times are measured against.

    Attributes
    ----------
    pair : int64 ndarray, shape (n,)
        Of each event. Pairs are numbered in order of user, then item.
    unweighted : bool ndarray, shape (n,)
        Which events are of a type that ``ingest.event_weights`` does not know; they add nothing.
    """

    def __init__(self, events: pa.Table, config: Config, span: Span) -> None:
        self._events, self._config, self._span = events, config, span
        self._users, user = _in_order(events["user_id"])
        self._items, item = _in_order(events["item_id"])
        self.pair = user * len(self._items) + item
        types, self._type = coded(events["event_type"])
        names, weights = types.to_pylist(), config.ingest.event_weights
        self._is_delete = np.array([name == config.ingest.delete_event_type for name in names], bool)[self._type]
        self._weight = np.array([weights.get(name, 0.0) for name in names])
        unknown = np.array([config.feedback == "implicit" and name not in weights for name in names], bool)
        self.unweighted = unknown[self._type] & ~self._is_delete

    def of_ids(self, ids: pa.Array) -> Bools:
        """Return which events are some of them, by event id."""
        return pc.is_in(self._events["event_id"], value_set=ids).to_numpy()

    def of_users(self, ids: pa.Array) -> Bools:
        """Return which events are of one of some users."""
        wanted = pc.is_in(self._users, value_set=ids.cast(self._users.type)).to_numpy(zero_copy_only=False)
        return wanted[self.pair // max(len(self._items), 1)]

    def of_pairs(self, pair: Int64s) -> Bools:
        """Return which events are of one of some pairs, given in order."""
        return np.append(pair, -1)[np.searchsorted(pair, self.pair)] == self.pair

    def table(self, pair: Int64s, **columns: Any) -> pa.Table:
        """Return ``user_id, item_id`` of some pairs, dictionary-encoded, and other columns."""
        user, item = np.divmod(pair, max(len(self._items), 1))
        ids = [
            pa.DictionaryArray.from_arrays(pa.array(code.astype(np.int32)), names)
            for code, names in ((user, self._users), (item, self._items))
        ]
        return pa.table({"user_id": ids[0], "item_id": ids[1], **columns})

    def interactions(self, some: Bools | None = None) -> pa.Table:
        """Return ``user_id, item_id, strength``: what all events, or some, amount to."""
        found = self.strengths(some)
        return self.table(found.pair, strength=found.strength)

    def strengths(self, some: Bools | None = None) -> Strengths:
        """Return the interactions that all events, or some, amount to."""
        rows = np.arange(len(self.pair)) if some is None else np.flatnonzero(some)
        rows = rows[np.argsort(self.pair[rows])]
        rows = rows[self._counts(rows)]
        if not len(rows):
            return Strengths(np.empty(0, np.int64), np.empty(0))
        if self._config.feedback == "explicit":
            return self._last_values(rows)
        return self._scaled_sums(rows)

    def _counts(self, rows: Int64s) -> Bools:
        """Return which of some events, by pair, come after the last delete of their pair."""
        is_delete = self._is_delete[rows]
        if not is_delete.any():
            return ~is_delete
        place, starts = self._place(rows), _starts(self.pair[rows])
        never = np.iinfo(np.int64).min
        deleted_at = np.maximum.reduceat(np.where(is_delete, place, never), starts)
        return ~is_delete & (place > np.repeat(deleted_at, np.diff(np.append(starts, len(rows)))))

    def _last_values(self, rows: Int64s) -> Strengths:
        """Return the value of each pair's last event; what was ingested later wins a tie of times."""
        several = _of_several(self.pair[rows])
        chosen = rows[several]
        by_id = pc.rank(self._events["event_id"].take(pa.array(chosen)), tiebreaker="dense").to_numpy()
        keys = (by_id, _micros(self._events["ingested_at"])[chosen], self._place(chosen), self.pair[chosen])
        rows[several] = chosen[np.lexsort(keys)]
        last = np.append(_starts(self.pair[rows])[1:], len(rows)) - 1
        return Strengths(self.pair[rows][last], self._events["value"].to_numpy()[rows[last]])

    def _scaled_sums(self, rows: Int64s) -> Strengths:
        """Return the decayed, weighted, scaled sum of each pair's events, where it is positive."""
        share = self._weight[self._type[rows]] * self._events["value"].to_numpy()[rows]
        half_life, newest = self._config.interactions.half_life_days, self._span.newest
        if half_life > 0 and newest is not None:
            time = _micros(self._events["event_time"], self._span.oldest)[rows]
            share *= np.exp2((time - newest) / (half_life * MICROS_PER_DAY))
        pair = self.pair[rows]
        several = _of_several(pair)
        share[several] = share[several][np.lexsort((share[several], pair[several]))]
        starts = _starts(pair)
        total = np.add.reduceat(share, starts)
        kept = total > 0
        scale = self._config.interactions.log_scale
        return Strengths(pair[starts][kept], np.log1p(total[kept] / scale) if scale > 0 else total[kept])

    def _place(self, rows: Int64s) -> Int64s:
        """Return the places in time of some events."""
        ingested = _micros(self._events["ingested_at"])[rows] + _UNTIMED
        time = _micros(self._events["event_time"], 0)[rows]
        return np.where(self._events["event_time"].is_valid().to_numpy()[rows], time, ingested)


def _in_order(ids: pa.ChunkedArray) -> tuple[pa.Array, Int64s]:
    """Return the distinct ids in order, and each id's place among them."""
    distinct, place = coded(ids)
    order = pc.sort_indices(distinct)
    return distinct.take(order), invert(order.to_numpy())[place].astype(np.int64)


def _starts(pair: Int64s) -> Int64s:
    """Return where each pair begins.

    >>> _starts(np.array([3, 3, 5, 6, 6])).tolist()
    [0, 2, 3]
    """
    return np.flatnonzero(np.diff(pair, prepend=-1))


def _of_several(pair: Int64s) -> Int64s:
    """Return the places of the events, by pair, that are not their pair's only one.

    >>> _of_several(np.array([3, 3, 5, 6, 6])).tolist()
    [0, 1, 3, 4]
    """
    same = np.diff(pair) == 0
    return np.flatnonzero(np.append(same, False) | np.append(False, same))


def _micros(times: pa.ChunkedArray, missing: int | None = None) -> Int64s:
    """Return microseconds since 1970, of events without a time ``missing``."""
    numbers = times.cast(pa.int64())
    return (numbers if missing is None else pc.fill_null(numbers, missing)).to_numpy()
