"""The shard of every rank, taken together, is the interaction matrix in both orientations."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lakefactor.errors import InputError
from lakefactor.factorization.shard import Shard, build_shard
from lakefactor.testing.interactions import deal, random_interactions
from lakefactor.testing.threads import run_ranks
from lakefactor.types import SIDES, other

Entry = tuple[object, object, float]


def entries_of(shard: Shard, side: str, source_ids: list[object]) -> list[Entry]:
    """Return (user, item, strength) of one side's CSR, columns named by the panel's ids."""
    rows = shard.rows[side]
    row_ids = np.repeat(np.array(rows.ids.to_pylist(), dtype=object), rows.n_entries)
    column_ids = [source_ids[column] for column in rows.indices]
    pairs = zip(row_ids, column_ids, strict=True) if side == "user" else zip(column_ids, row_ids, strict=True)
    return [(user, item, strength) for (user, item), strength in zip(pairs, rows.strengths.tolist(), strict=True)]


def panels(size: int, table: pa.Table, seed: int = 0) -> list[tuple[Shard, dict[str, list[object]]]]:
    """Build shards on ``size`` ranks; fetch ids through the plans in place of factors."""
    dealt = deal(table, size, seed)

    def on_rank(comm):
        shard = build_shard(comm, dealt[comm.proc_rank])
        fetched = {}
        for side in SIDES:
            own = np.array(shard.rows[side].ids.to_pylist(), dtype=object)
            fetched[side] = shard.plans[side].fetch(comm, own).tolist()
        return shard, fetched

    return run_ranks(size, on_rank)


@pytest.mark.parametrize("long_ids", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_both_orientations_hold_every_entry_once(size, long_ids):
    table = random_interactions(40, 25, 300, seed=1, long_ids=long_ids)
    expected = sorted(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
    ranks = panels(size, table)
    for side in SIDES:
        found = [entry for shard, ids in ranks for entry in entries_of(shard, side, ids[other(side)])]
        assert sorted(found) == expected


@pytest.mark.parametrize("size", [1, 3])
def test_panel_holds_exactly_the_needed_rows(size):
    for shard, ids in panels(size, random_interactions(40, 25, 150, seed=2)):
        for side in SIDES:
            needed = ids[other(side)]
            assert len(set(needed)) == len(needed)
            assert set(shard.rows[side].indices.tolist()) == set(range(len(needed)))


def test_order_of_arrival_changes_nothing():
    table = random_interactions(40, 25, 300, seed=3)
    for (one, _), (other_one, _) in zip(panels(3, table, seed=1), panels(3, table, seed=2), strict=True):
        for side in SIDES:
            assert one.rows[side].ids.equals(other_one.rows[side].ids)
            for name in ("indptr", "indices", "strengths"):
                np.testing.assert_array_equal(getattr(one.rows[side], name), getattr(other_one.rows[side], name))
            np.testing.assert_array_equal(one.plans[side].send_rows, other_one.plans[side].send_rows)


def test_rows_are_in_order_of_entries_then_id():
    (shard, _), *_ = panels(1, random_interactions(40, 25, 300, seed=4))
    for side in SIDES:
        rows = shard.rows[side]
        keys = list(zip((-rows.n_entries).tolist(), rows.ids.to_pylist(), strict=True))
        assert keys == sorted(keys)


def test_a_rank_may_have_no_entries():
    table = pa.table({"user_id": ["ann", "ann"], "item_id": ["x", "y"], "strength": [5.0, 3.0]})
    ranks = panels(8, table)
    found = [entry for shard, ids in ranks for entry in entries_of(shard, "item", ids["user"])]
    assert sorted(found) == [("ann", "x", 5.0), ("ann", "y", 3.0)]


def test_repeated_pair_is_refused():
    table = pa.table({"user_id": ["ann", "bob", "ann"], "item_id": ["x", "x", "x"], "strength": [5.0, 3.0, 1.0]})
    with pytest.raises(InputError, match=r"1 repeated \(user, item\) pairs, the first of .* (ann|x)"):
        panels(1, table)


def test_no_interactions_are_refused():
    table = random_interactions(1, 1, 1, seed=0).slice(0, 0)
    with pytest.raises(InputError, match="no interactions to train on"):
        panels(2, table)
