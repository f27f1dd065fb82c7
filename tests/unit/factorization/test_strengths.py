from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakefactor.config import Config
from lakefactor.factorization.strengths import PairEvents, Span
from lakefactor.query.lake import encoded
from lakefactor.testing.strengths import Event, drawn_events, expected

KINDS = ("view", "purchase", "delete")


def table(events: list[Event]) -> pa.Table:
    users, items, kinds, values, times, ingested = zip(*events, strict=True)

    def stamps(seconds: Any) -> pa.Array:
        micros = [None if second is None else second * 10**6 for second in seconds]
        return pa.array(micros, pa.int64()).cast(pa.timestamp("us", "UTC"))

    return pa.table(
        {
            "event_id": pa.array([number.to_bytes(16, "big") for number in range(len(events))], pa.binary()),
            "user_id": users, "item_id": items, "event_type": kinds, "value": values,
            "event_time": stamps(times), "ingested_at": stamps(ingested),
        }
    )  # fmt: skip


def config(algorithm: str, **interactions: float) -> Config:
    weights = {"interaction": 1.0, "view": 1.0, "purchase": 5.0}
    return Config(model={"algorithm": algorithm}, ingest={"event_weights": weights}, interactions=interactions)


def span(events: list[Event]) -> Span:
    times = [event[4] * 10**6 for event in events if event[4] is not None]
    return Span(frozenset(KINDS), min(times), max(times))


def strengths(found: pa.Table) -> dict[tuple[str, str], float]:
    return {(row["user_id"], row["item_id"]): row["strength"] for row in found.to_pylist()}


CONFIGS = [config("explicit_als"), config("implicit_als"), config("ials", half_life_days=3.0, log_scale=2.0)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model.algorithm)
@pytest.mark.parametrize("as_read", [encoded, lambda table: table], ids=["dictionaries", "texts"])
def test_any_history_gives_what_the_rules_give_event_by_event(config, as_read):
    events = drawn_events(1, 3000, 30, 20)
    wanted = {pair: row[0] for pair, row in expected(events, config).items()}
    found = PairEvents(as_read(table(events)), config, span(events)).interactions()
    assert strengths(found) == pytest.approx(wanted, rel=1e-12)
    assert len(found) == len(wanted)
    names = list(zip(found["user_id"].to_pylist(), found["item_id"].to_pylist(), strict=True))
    assert names == sorted(names)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model.algorithm)
def test_the_order_of_events_changes_no_bit(config):
    events = drawn_events(2, 3000, 30, 20)
    rows = table(events)
    shuffled = rows.take(pa.array(np.random.default_rng(0).permutation(len(rows))))
    once, again = (PairEvents(some, config, span(events)).interactions() for some in (rows, shuffled))
    assert once["strength"].to_numpy().tobytes() == again["strength"].to_numpy().tobytes()
    assert once.to_pylist() == again.to_pylist()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model.algorithm)
def test_some_of_the_events_are_taken_as_if_they_were_all(config):
    events = drawn_events(3, 3000, 30, 20)
    history = PairEvents(table(events), config, span(events))
    users = pa.array(["u3", "u7", "nobody"])
    of_users = history.of_users(users)
    early = history.of_ids(table(events)["event_id"].slice(0, 2000))
    assert early.tolist() == [True] * 2000 + [False] * 1000
    assert of_users.tolist() == [event[0] in ("u3", "u7") for event in events]
    some = [event for event, is_one in zip(events, of_users & early, strict=True) if is_one]
    measured_against = [(None, None, "view", 0.0, time, 0) for time in (e[4] for e in events) if time is not None]
    wanted = {pair: row[0] for pair, row in expected([*some, *measured_against], config).items() if pair[0]}
    assert strengths(history.interactions(of_users & early)) == pytest.approx(wanted, rel=1e-12)
    pairs = np.unique(history.pair[:50])
    named = {(events[row][0], events[row][1]) for row in range(50)}
    assert history.of_pairs(pairs).tolist() == [event[:2] in named for event in events]
    found, table_of = history.strengths(), history.table(pairs, before=history.strengths().of(pairs))
    assert {(r["user_id"], r["item_id"]) for r in table_of.to_pylist()} == named
    is_there = np.isin(pairs, found.pair)
    assert np.isnan(table_of["before"].to_numpy()).tolist() == (~is_there).tolist()
    assert 0 < is_there.sum() <= len(pairs)


def test_what_has_no_weight_adds_nothing_and_is_told():
    events = [
        ("u", "i", "view", 2.0, 10, 0),
        ("u", "i", "share", 9.0, 20, 0),
        ("u", "j", "share", 9.0, 20, 0),
        ("u", "k", "view", 1.0, 20, 0),
        ("u", "k", "delete", 1.0, 20, 0),
    ]
    history = PairEvents(table(events), CONFIGS[1], span(events))
    assert history.unweighted.tolist() == [False, True, True, False, False]
    assert history.interactions().to_pylist() == [{"user_id": "u", "item_id": "i", "strength": 2.0}]
    assert not PairEvents(table(events), CONFIGS[0], span(events)).unweighted.any()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model.algorithm)
def test_no_events_give_no_interactions(config):
    rows = encoded(table(drawn_events(4, 3, 30, 20)).slice(0, 0))
    history = PairEvents(rows, config, Span(frozenset(), None, None))
    assert history.interactions().to_pylist() == []
    assert len(history.strengths().of(np.array([], np.int64))) == 0
    assert len(history.of_users(pa.array(["u"]))) == 0
