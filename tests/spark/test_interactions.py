from __future__ import annotations

import math

import pytest
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.errors import InputError, TableError
from lakefactor.factorization.strengths import PairEvents
from lakefactor.pipelines import interactions
from lakefactor.pipelines.interactions import span_of
from lakefactor.spark.tables import Tables
from lakefactor.testing.strengths import drawn_events, expected

DAY = 86_400


def put_events(spark, config, events, ids=("string", "string")):
    """Write (user, item, type, value, seconds or None, ingested seconds) as they are into `events`."""
    tables = Tables(spark, config.tables)
    tables.ensure("events", *ids)
    user, item = ({"string": "string", "long": "bigint"}[kind] for kind in ids)
    schema = f"n int, user_id {user}, item_id {item}, event_type string, value double, at bigint, ingested bigint"
    frame = spark.createDataFrame([(n, *event) for n, event in enumerate(events)], schema).select(
        F.to_binary(F.lpad(F.col("n").cast("string"), 32, "0"), F.lit("hex")).alias("event_id"),
        *("user_id", "item_id", "event_type", "value"),
        F.timestamp_seconds("at").alias("event_time"),
        F.lit("test").alias("source"),
        F.timestamp_seconds("ingested").alias("ingested_at"),
    )
    tables.append("events", frame)
    return tables


def contents(tables):
    rows = tables.read("interactions").withColumn("last_event_time", F.unix_seconds("last_event_time")).collect()
    return {(row.user_id, row.item_id): (row.strength, row.n_events, row.last_event_time) for row in rows}


def with_sections(config, **sections):
    """Return `config` with some keys of some sections changed."""
    return Config(**{**dict(config), **{k: getattr(config, k).model_copy(update=v) for k, v in sections.items()}})


def in_memory(tables, config):
    """Return the strengths that a stream would make of the same events."""
    events = PairEvents(tables.read("events").toArrow(), config, span_of(tables.read("events")))
    return {(row["user_id"], row["item_id"]): row["strength"] for row in events.interactions().to_pylist()}


def explicit(config, **sections):
    return with_sections(config, model={"algorithm": "explicit_als"}, **sections)


def close(found, wanted):
    assert found.keys() == wanted.keys()
    assert {pair: row[1:] for pair, row in found.items()} == {pair: row[1:] for pair, row in wanted.items()}
    close_strengths({pair: row[0] for pair, row in found.items()}, wanted)


def close_strengths(found, wanted):
    assert found == pytest.approx({pair: row[0] for pair, row in wanted.items()}, rel=1e-12)


def test_explicit_feedback_keeps_the_last_rating(spark, config):
    events = [
        ("once", "i", "rating", 3.0, 10, 0),
        ("changed", "i", "rating", 5.0, 20, 0),
        ("changed", "i", "rating", 1.0, 30, 0),
        ("changed", "i", "rating", 4.0, None, 9),  # without a time: the oldest
        ("corrected", "i", "rating", 2.0, 10, 0),
        ("corrected", "i", "rating", 1.0, 10, 5),  # ingested later at the same time
        ("gone", "i", "rating", 5.0, 10, 0),
        ("gone", "i", "delete", 1.0, 10, 0),  # a delete wins a tie
        ("back", "i", "rating", 5.0, 10, 0),
        ("back", "i", "delete", 1.0, 11, 0),
        ("back", "i", "rating", 2.0, 12, 0),
        ("disliked", "i", "rating", -1.0, 10, 0),
        ("untimed", "i", "rating", 4.0, None, 1),
        ("untimed", "i", "rating", 3.0, None, 2),
        ("untimed", "j", "rating", 3.0, None, 1),
        ("untimed", "j", "delete", 3.0, None, 1),
    ]
    config = explicit(config)
    tables = put_events(spark, config, events)
    result = interactions.run(spark, config)
    assert contents(tables) == {
        ("once", "i"): (3.0, 1, 10),
        ("changed", "i"): (1.0, 3, 30),
        ("corrected", "i"): (1.0, 2, 10),
        ("back", "i"): (2.0, 1, 12),
        ("disliked", "i"): (-1.0, 1, 10),
        ("untimed", "i"): (3.0, 2, None),
    }
    assert contents(tables) == expected(events, config)
    close_strengths(in_memory(tables, config), expected(events, config))
    assert (result.pairs, result.removed, result.users, result.items) == (6, 2, 6, 1)


def test_implicit_feedback_adds_what_events_are_worth_since_the_last_delete(spark, config):
    events = [
        ("u", "seen", "view", 1.0, 10, 0),
        ("u", "seen", "view", 1.0, 20, 0),
        ("u", "bought", "view", 2.0, 10, 0),
        ("u", "bought", "purchase", 1.0, 20, 0),
        ("u", "reset", "purchase", 1.0, 10, 0),
        ("u", "reset", "delete", 1.0, 20, 0),
        ("u", "reset", "view", 1.0, 30, 0),
        ("u", "gone", "view", 1.0, 20, 0),
        ("u", "gone", "view", 1.0, None, 9),
        ("u", "gone", "delete", 1.0, 20, 0),
        ("u", "nothing", "view", 0.0, 20, 0),
        ("u", "disliked", "view", 1.0, 20, 0),
        ("u", "disliked", "view", -2.0, 21, 0),
        ("v", "returned", "delete", 1.0, None, 1),
        ("v", "returned", "view", 1.0, None, 2),  # ingested after the delete
        ("v", "never", "delete", 1.0, 30, 0),
    ]
    tables = put_events(spark, config, events)
    result = interactions.run(spark, config)
    assert contents(tables) == {
        ("u", "seen"): (2.0, 2, 20),
        ("u", "bought"): (7.0, 2, 20),
        ("u", "reset"): (1.0, 1, 30),
        ("v", "returned"): (1.0, 1, None),
    }
    assert contents(tables) == expected(events, config)
    close_strengths(in_memory(tables, config), expected(events, config))
    assert (result.pairs, result.removed, result.users, result.items) == (4, 4, 2, 4)


def test_strength_halves_with_every_half_life_and_is_scaled_by_the_logarithm(spark, config):
    events = [
        ("new", "i", "view", 8.0, 10 * DAY, 0),
        ("old", "i", "view", 8.0, 8 * DAY, 0),
        ("oldest", "i", "view", 8.0, 4 * DAY, 0),
        ("untimed", "i", "view", 8.0, None, 0),
        ("both", "i", "view", 8.0, 10 * DAY, 0),
        ("both", "i", "view", 8.0, 6 * DAY, 0),
    ]
    config = with_sections(config, interactions={"half_life_days": 2.0, "log_scale": 0.5})
    tables = put_events(spark, config, events)
    interactions.run(spark, config)
    sums = {"new": 8.0, "old": 4.0, "oldest": 1.0, "untimed": 1.0, "both": 10.0}
    found = {user: row[0] for (user, _), row in contents(tables).items()}
    assert found == pytest.approx({user: math.log(1 + total / 0.5) for user, total in sums.items()}, rel=1e-14)
    close_strengths(in_memory(tables, config), contents(tables))


@pytest.mark.parametrize(
    ("algorithm", "scaling"),
    [("explicit_als", {}), ("implicit_als", {}), ("ials", {"half_life_days": 3.0, "log_scale": 2.0})],
)
def test_any_history_gives_what_the_rules_give_event_by_event(spark, config, algorithm, scaling):
    events = drawn_events(7, 400, 8, 5)
    config = with_sections(config, model={"algorithm": algorithm}, interactions=scaling)
    tables = put_events(spark, config, events)
    result = interactions.run(spark, config)
    wanted = expected(events, config)
    close(contents(tables), wanted)
    close_strengths(in_memory(tables, config), wanted)
    assert 0 < len(wanted) < 40
    assert (result.pairs, result.removed) == (len(wanted), len({event[:2] for event in events}) - len(wanted))


def test_it_is_written_again_only_if_events_or_the_settings_that_count_changed(spark, config):
    tables = put_events(spark, config, [("u", "i", "view", 1.0, 10, 0)])
    first = interactions.run(spark, config)
    assert interactions.run(spark, config) == first
    assert (first.events_version, first.interactions_version, first.pairs) == (1, 1, 1)
    elsewhere = with_sections(config, train={"iterations": 3}, model={"rank": 7})
    assert interactions.run(spark, elsewhere) == first
    heavier = with_sections(config, ingest={"event_weights": {"interaction": 1.0, "view": 2.0}})
    assert interactions.run(spark, heavier).interactions_version == 2
    assert contents(tables) == {("u", "i"): (2.0, 1, 10)}
    put_events(spark, config, [("u", "i", "view", 1.0, 20, 0)])
    assert interactions.run(spark, heavier).interactions_version == 3
    assert contents(tables) == {("u", "i"): (4.0, 2, 20)}


def test_explicit_feedback_does_not_depend_on_weights(spark, config):
    put_events(spark, config, [("u", "i", "view", 3.0, 10, 0)])
    first = interactions.run(spark, explicit(config))
    heavier = explicit(config, ingest={"event_weights": {"interaction": 1.0, "view": 2.0}})
    assert interactions.run(spark, heavier) == first


def test_ids_have_the_types_of_events(spark, config):
    tables = put_events(spark, config, [(2**40, "i", "view", 1.0, 10, 0)], ids=("long", "string"))
    interactions.run(spark, config)
    assert tables.id_types("interactions") == ("long", "string")
    assert contents(tables) == {(2**40, "i"): (1.0, 1, 10)}
    assert in_memory(tables, config) == {(2**40, "i"): 1.0}


def test_no_events_give_no_interactions(spark, config):
    tables = put_events(spark, config, [])
    result = interactions.run(spark, config)
    assert (result.pairs, result.removed, result.users, result.items) == (0, 0, 0, 0)
    assert contents(tables) == {}
    assert in_memory(tables, config) == {}


def test_missing_events_and_unknown_types_are_refused(spark, config):
    with pytest.raises(TableError, match=r"events does not exist at .* 'lakefactor ingest' creates it"):
        interactions.run(spark, config)
    put_events(spark, config, [("u", "i", "view", 1.0, 10, 0)])
    with pytest.raises(InputError, match=r"events of type 'view', which have no weight; add them to ingest\.event_wei"):
        interactions.run(spark, with_sections(config, ingest={"event_weights": {"interaction": 2.0}}))
