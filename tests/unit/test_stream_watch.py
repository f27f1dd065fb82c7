"""Scoring by ids: the figures are those of the rows that the ids stand for."""

from __future__ import annotations

from math import log2, sqrt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from lakefactor.config import Stream
from lakefactor.pipelines.stream_watch import score_ranks, score_ratings
from lakefactor.types import Side


class Live:
    """A model of given factors; items are scored by the users' only number times theirs, plus a bias."""

    def __init__(self, users: dict[Any, float], items: dict[Any, float], entries: list[int]) -> None:
        self.ids: dict[Side, list[Any]] = {"user": list(users), "item": list(items)}
        values: dict[Side, Any] = {"user": users.values(), "item": items.values()}
        self.factors = {side: np.array([[v] for v in values[side]], np.float32).reshape(-1, 1) for side in values}
        self.bias: dict[Side, NDArray[np.float32]] = {
            "user": np.full(len(users), 0.25, np.float32),
            "item": np.linspace(0, 0.5, len(items), dtype=np.float32),
        }
        self.entries = np.array(entries)

    def size(self, side: Side) -> int:
        return len(self.ids[side])

    def numbers(self, side: Side, ids: list[Any]) -> NDArray[np.int64]:
        own = self.ids[side]
        return np.array([own.index(name) if name in own else -1 for name in ids], np.int64)

    def stored(self, side: Side, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.factors[side][rows], self.bias[side][rows]

    def n_entries(self, side: Side, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        assert side == "item"
        return self.entries[rows]


def table(pairs: list[tuple[Any, Any]], **columns: list[float]) -> pa.Table:
    users, items = zip(*pairs, strict=True)
    return pa.table({"user_id": pa.array(users), "item_id": pa.array(items), **columns})


def model(long_ids: bool) -> tuple[Live, Any, Any]:
    def user(name: str) -> Any:
        return {"ann": 2**40, "bob": 7, "new": -5, "cid": 9}[name] if long_ids else name

    def item(name: str) -> Any:
        return {"a": 1, "b": 2, "c": 3, "d": 2**50, "x": -1, "y": -2}[name] if long_ids else name

    # bob's list: d, c, b, a; ann's, whose number is negative: a, b, c, d. Popular, with half of all entries: b.
    users = {user("ann"): -1.0, user("bob"): 1.0}
    items = {item(name): float(value) for value, name in enumerate("abcd", start=1)}
    return Live(users, items, [2, 10, 5, 3]), user, item


@pytest.mark.parametrize("long_ids", [False, True])
def test_ranks_by_id(long_ids: bool) -> None:
    live, user, item = model(long_ids)
    settings = Stream(watch_k=2)

    def pairs(*names: tuple[str, str]) -> pa.Table:
        return table([(user(u), item(i)) for u, i in names])

    history = pairs(("ann", "a"), ("ann", "a"), ("cid", "b"), ("ann", "x"), ("bob", "d"))
    # ann's list is [b, c] and holds b of {b, d, x, y}; bob's is [c, b] and holds neither; a again is not scored.
    events = pairs(
        ("ann", "x"), ("bob", "a"), ("ann", "b"), ("ann", "a"), ("ann", "y"), ("new", "b"), ("ann", "d"), ("ann", "b")
    )
    got = score_ranks(live, settings, 3, events, lambda users: history)
    ideal = 1 + 1 / log2(3)
    assert got == pytest.approx({
        "recall_at_2": (1 / 4 + 0 + 0) / 3, "ndcg_at_2": (1 / ideal + 0 + 0) / 3,
        "recall_at_2.known_users": (1 / 4 + 0) / 2, "ndcg_at_2.known_users": (1 / ideal + 0) / 2,
        "recall_at_2.new_users": 0.0, "ndcg_at_2.new_users": 0.0,
        "recall_at_2.popular_items": (1 + 0) / 2, "ndcg_at_2.popular_items": (1 + 0) / 2,
        "recall_at_2.tail_items": 0.0, "ndcg_at_2.tail_items": 0.0,
    })  # fmt: skip
    # Without the history, the lists are [a, b] and [d, c]: ann's holds 2 of {a, b, d, x, y}.
    assert score_ranks(live, settings, 3, events)["recall_at_2"] == pytest.approx((2 / 5 + 0 + 0) / 3)


def test_ratings_by_id() -> None:
    live, *_ = model(False)
    events = table([("bob", "d"), ("new", "a"), ("ann", "x")], strength=[7.0, 5.0, 3.0])
    # mean 3: bob and d 3 + 0.25 + 0.5 + 4 = 7.75, clipped to 7.5; new and a 3 + 0; ann and x 3 + 0.25.
    got = score_ratings(live, Stream(), 3, events, 3.0, (1.0, 7.5))
    errors = {"bob": 0.25, "new": 4.0, "ann": 0.0625}
    assert got == pytest.approx({
        "rmse": sqrt(sum(errors.values()) / 3),
        "rmse.new_users": 2.0,
        "rmse.known_users": sqrt((0.25 + 0.0625) / 2),
        "rmse.tail_items": sqrt(sum(errors.values()) / 3),
    })  # fmt: skip


@pytest.mark.parametrize("watch_users", [0, 1, 2])
def test_only_drawn_users_are_scored(watch_users: int) -> None:
    live, *_ = model(False)
    events = table([("ann", "b"), ("bob", "b"), ("cid", "b"), ("ann", "c"), ("bob", "c")], strength=[1.0] * 5)
    settings = Stream(watch_users=watch_users, watch_k=4)
    reorder = events.take(pa.array([4, 2, 0, 1, 3]))
    for batch_id in range(6):
        ranks = score_ranks(live, settings, batch_id, events)
        assert score_ranks(live, settings, batch_id, reorder) == ranks
        assert score_ratings(live, settings, batch_id, reorder, 3.0) == pytest.approx(
            score_ratings(live, settings, batch_id, events, 3.0)
        )
        # Lists of all four items: a known user's recall is 1, cid's is 0.
        assert ranks.get("recall_at_4") in {0: [None], 1: [0.0, 1.0], 2: [0.5, 1.0]}[watch_users]


def test_a_batch_without_events_says_nothing() -> None:
    live, *_ = model(False)
    empty = table([("ann", "b")], strength=[1.0]).slice(0, 0)
    assert score_ranks(live, Stream(), 3, empty) == {}
    assert score_ratings(live, Stream(), 3, empty, 3.0) == {}


def test_a_model_without_items_misses_everything() -> None:
    live = Live({"ann": 1.0}, {}, [])
    got = score_ranks(live, Stream(), 3, table([("ann", "b")]), lambda users: table([("ann", "c")]))
    assert set(got.values()) == {0.0}
