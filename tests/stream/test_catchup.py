"""What a model version learns of events that arrived while it was not live: before it is published, or after."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from pathlib import Path

import pytest

from lakefactor.config import Config
from lakefactor.pipelines import catchup, ingest, publish, stream, train
from lakefactor.pipelines.models import live_version
from lakefactor.spark import upkeep
from lakefactor.spark.live_factors import read_factors
from lakefactor.spark.tables import Tables
from lakefactor.testing.stream_runs import EVENTS, changed, lines, settings, write

FIRST = ["u901,i001,1,1700100000", *lines(21, 30, users=10, first=EVENTS)]
SECOND = lines(22, 20, users=10, first=EVENTS + 40)
SECOND_AGAIN = lines(23, 20, users=10, first=EVENTS + 70)
THIRD = ["u039,i001,1,1700200000"]


def factors(spark, config: Config, version: str) -> dict[str, tuple[list[float], int]]:
    rows = read_factors(Tables(spark, config.tables), "user", version).collect()
    return {row.user_id: (row.factors, row.n_entries) for row in rows}


def assert_same(found: dict[str, tuple[list[float], int]], expected: dict[str, tuple[list[float], int]]) -> None:
    assert {user: n for user, (_, n) in found.items()} == {user: n for user, (_, n) in expected.items()}
    for user, (row, _) in found.items():
        assert row == pytest.approx(expected[user][0], rel=1e-5, abs=1e-6), user


def arrive(spark, config: Config, rows: list[str]) -> None:
    """Let a micro-batch come, and process it."""
    landing = Path(config.stream.path)
    write(landing, f"{len(list(landing.iterdir()))}.csv", rows)
    stream.run(spark, config, available_now=True)


def at(config: Config, root: Path) -> Config:
    return changed(config, tables={"root": str(root / "warehouse")}, stream={"path": str(root / "landing")})


def test_before_it_is_live_a_version_learns_what_the_stream_would_teach_it_after(spark, place, tmp_path):
    config = settings(place / "warehouse", place / "landing", item_rule="off")
    tables = Tables(spark, config.tables)
    new = train.run(spark, changed(config, model={"seed": 2})).model_version
    trained = factors(spark, config, new)
    arrive(spark, config, FIRST)
    assert factors(spark, config, new) == trained  # the live one has learned, this one has not

    shutil.copytree(place / "warehouse", tmp_path / "other" / "warehouse")
    shutil.copytree(place / "landing", tmp_path / "other" / "landing")
    found = catchup.run(spark, config)
    touched = {row.split(",")[0] for row in FIRST}
    assert (found.model_version, found.events, found.users, found.new_users) == (new, len(FIRST), len(touched), 1)
    assert found.events_version == tables.version("events")
    caught_up = factors(spark, config, new)
    assert {user for user in caught_up if caught_up[user] != trained.get(user)} == touched
    catchup.run(spark, config)
    assert factors(spark, config, new) == caught_up

    other = at(config, tmp_path / "other")
    for each in (config, other):
        publish.run(spark, each, new)
        arrive(spark, each, THIRD)  # the other one's first chance to learn what it has missed
    assert_same(factors(spark, config, new), factors(spark, other, new))
    assert_same({user: caught_up[user] for user in touched}, {u: factors(spark, other, new)[u] for u in touched})

    # Of the live version there is nothing to catch up: the stream has it.
    version = tables.version("factor_updates")
    assert catchup.run(spark, config).users == 0
    assert tables.version("factor_updates") == version


@pytest.mark.long
def test_catching_up_again_replaces_what_was_learned_before(spark, place):
    config = settings(place / "warehouse", place / "landing", item_rule="off")
    new = train.run(spark, changed(config, model={"seed": 2})).model_version
    ids = []
    for rows in (FIRST, SECOND):
        arrive(spark, config, rows)
        catchup.run(spark, config)
        updates = Tables(spark, config.tables).read("factor_updates").where(f"model_version = '{new}'")
        ids.append(sorted((row.user_id, row.batch_id) for row in updates.collect()))
    for number, rows in enumerate((FIRST, FIRST + SECOND)):
        assert ids[number] == sorted({(row.split(",")[0], number) for row in rows})


def test_a_stream_that_begins_after_a_catch_up_is_numbered_behind_it(spark, place):
    config = settings(place / "warehouse", place / "landing")
    changes = changed(config, stream={"source": "changes"})
    new = train.run(spark, changed(config, model={"seed": 2})).model_version
    write(place, "first.csv", FIRST)
    ingest.run(spark, config, [str(place / "first.csv")])
    assert catchup.run(spark, config).users > 0
    publish.run(spark, config, new)
    caught_up = factors(spark, config, new)
    assert stream.run(spark, changes, available_now=True).batches == 0
    write(place, "second.csv", THIRD)
    ingest.run(spark, config, [str(place / "second.csv")])
    assert stream.run(spark, changes, available_now=True).first_batch == 1
    now = factors(spark, config, new)
    assert {user for user in now if now[user] != caught_up[user]} == {"u039"}


def test_a_version_that_is_live_again_learns_what_it_has_missed(spark, place):
    config = settings(place / "warehouse", place / "landing", item_rule="off")
    tables = Tables(spark, config.tables)
    old = live_version(tables)
    arrive(spark, config, FIRST)
    new = train.run(spark, changed(config, model={"seed": 2})).model_version
    publish.run(spark, config, new)
    arrive(spark, config, SECOND)
    before = factors(spark, config, old)
    publish.run(spark, config, rollback=True)
    assert live_version(tables) == old
    arrive(spark, config, THIRD)
    now = factors(spark, config, old)
    assert {user for user in now if now[user] != before[user]} == {row.split(",")[0] for row in [*SECOND, *THIRD]}
    counts = tables.read("events").select("user_id", "item_id").distinct().groupBy("user_id").count().collect()
    assert {user: n for user, (_, n) in now.items()} == {row.user_id: row["count"] for row in counts}


@pytest.mark.long
def test_where_the_history_is_gone_a_version_goes_on_without_what_it_has_missed(spark, place, capsys):
    config = settings(place / "warehouse", place / "landing", item_rule="off")
    tables = Tables(spark, config.tables)
    old = live_version(tables)
    arrive(spark, config, FIRST)
    publish.run(spark, config, train.run(spark, changed(config, model={"seed": 2})).model_version)
    for rows in (SECOND, SECOND_AGAIN):
        arrive(spark, config, rows)
    now = datetime.now(timezone.utc)
    upkeep.remove(spark, tables, "events", upkeep.past_of(spark, tables, "events", 0, None, now), now)
    before = factors(spark, config, old)
    publish.run(spark, config, rollback=True)
    arrive(spark, config, THIRD)
    found = factors(spark, config, old)
    assert {user for user in found if found[user] != before[user]} == {"u039"}
    assert f"model version {old} goes on without events that it has missed" in capsys.readouterr().err
