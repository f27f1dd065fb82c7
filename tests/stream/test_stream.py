"""The stream through real queries: what it writes, what it refuses, and that a cut-off run ends as an unbroken one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
import uuid
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lakefactor.config import Config
from lakefactor.errors import SetupError, TableError
from lakefactor.pipelines import ingest, interactions, live, publish, recommend, stream, train
from lakefactor.pipelines.models import live_version, newest
from lakefactor.spark.live_factors import read_factors
from lakefactor.spark.tables import Tables
from lakefactor.testing.solved import solved_rows
from lakefactor.testing.stream_runs import EVENTS, TABLES, changed, lines, outcome, settings, write, write_batches


def factors(spark, config: Config, side: str) -> dict[str, tuple]:
    tables = Tables(spark, config.tables)
    rows = read_factors(tables, side, live_version(tables)).collect()
    return {row[f"{side}_id"]: (tuple(row.factors), row.n_entries, row.batch_id) for row in rows}


def oracle_users(spark, config: Config, items: dict[str, tuple]) -> dict[str, np.ndarray]:
    """Solve every user anew from its interactions, in float64, against items as they are."""
    interactions.run(spark, config)
    tables = Tables(spark, config.tables)
    pairs = [row for row in tables.read("interactions").collect() if row.item_id in items]
    users, source = sorted({row.user_id for row in pairs}), {name: row[0] for name, row in items.items()}
    return solved_rows(newest(tables, live_version(tables)).config.model, "user", users, pairs, source)


def test_touched_users_are_solved_from_their_whole_history(spark, place):
    config = settings(place / "warehouse", place / "landing", item_rule="off")
    before, items = factors(spark, config, "user"), factors(spark, config, "item")
    new = [*lines(1, 40, users=10, first=EVENTS), "u900,i000,1,1700100000", "u900,i003,1,1700100001"]
    write(place / "landing", "1.csv", new)
    result = stream.run(spark, config, available_now=True)
    assert (result.batches, result.read, result.rejected) == (1, 42, 0)
    after = factors(spark, config, "user")
    touched = {line.split(",")[0] for line in new}
    assert set(after) == set(before) | {"u900"}
    assert {user for user in after if after[user][2] == 0} == touched
    assert {user: row for user, row in after.items() if user not in touched} == {
        user: row for user, row in before.items() if user not in touched
    }
    assert factors(spark, config, "item") == items
    expected = oracle_users(spark, config, items)
    for user in touched:
        np.testing.assert_allclose(after[user][0], expected[user], rtol=1e-5, atol=1e-6, err_msg=user)


class Struck(Exception):
    pass


def assert_users_are_solved(spark, config: Config, users: set[str], items: dict[str, tuple]) -> None:
    found, expected = factors(spark, config, "user"), oracle_users(spark, config, items)
    for user in users:
        np.testing.assert_allclose(found[user][0], expected[user], rtol=1e-5, atol=1e-6, err_msg=user)


def users_of(rows: list[str]) -> set[str]:
    return {row.split(",")[0] for row in rows}


def test_a_delete_takes_a_pair_back(spark, place):
    config = settings(place / "warehouse", place / "landing", item_rule="off")
    items, before = factors(spark, config, "item"), factors(spark, config, "user")
    known = Tables(spark, config.tables).read("interactions").where("user_id = 'u001'").orderBy("item_id").first()
    event = f"user,item,type,time\nu001,{known.item_id},delete,1700200000\n"
    (place / "landing" / "1.csv").write_text(event)
    assert stream.run(spark, config, available_now=True).accepted == 1
    assert factors(spark, config, "user")["u001"][1] == before["u001"][1] - 1
    assert_users_are_solved(spark, config, {"u001"}, items)


def test_a_new_version_learns_what_came_since_its_training(spark, place):
    config = settings(place / "warehouse", place / "landing", item_rule="off")
    other_seed = changed(config, model={"seed": 2})
    retrained = train.run(spark, other_seed).model_version
    first, second = lines(5, 20, users=8, first=EVENTS), lines(6, 20, users=8, first=EVENTS + 20)
    write(place / "landing", "1.csv", first)
    stream.run(spark, config, available_now=True)
    publish.run(spark, config, retrained)
    write(place / "landing", "2.csv", second)
    stream.run(spark, config, available_now=True)
    items = factors(spark, config, "item")
    assert live_version(Tables(spark, config.tables)) == retrained
    assert {user for user, row in factors(spark, config, "user").items() if row[2] == 1} == users_of(first + second)
    assert_users_are_solved(spark, config, users_of(first + second), items)


def test_a_lost_checkpoint_and_a_second_stream_are_refused(spark, place):
    config = settings(place / "warehouse", place / "landing")
    write(place / "landing", "1.csv", lines(7, 5, first=EVENTS))
    stream.run(spark, config, available_now=True)
    checkpoints = place / "warehouse" / "_checkpoints"
    lease = {"name": "stream 'other'", "host": socket.gethostname(), "pid": os.getppid(), "renewed_at": time.time()}
    (checkpoints / "lease.json").write_text(json.dumps(lease))
    with pytest.raises(
        SetupError, match=r"stream 'other' is running on .* \(process \d+\); one stream at a time updates the tables"
    ):
        stream.run(spark, config, available_now=True)
    (checkpoints / "lease.json").write_text(json.dumps(lease | {"renewed_at": 0}))
    shutil.rmtree(checkpoints / "default")
    with pytest.raises(SetupError, match=r"its checkpoint at .*_checkpoints/default is gone"):
        stream.run(spark, config, available_now=True)
    again = changed(config, stream={"name": "again"})
    result = stream.run(spark, again, available_now=True)
    assert (result.first_batch, result.accepted, result.duplicates) == (1, 0, 5)


RULES = {
    "exact": {"user_rule": "exact", "item_rule": "proximal", "fold_every": 2},
    "exact both": {"user_rule": "exact", "item_rule": "exact", "fold_every": 0},
    "optimizers": {"user_rule": "momentum", "item_rule": "adam", "fold_every": 2},
}
POINTS = ("rejects", "events", "factor_updates", "refresh", "stream_ledger", "fold")


def run_batches(spark, config: Config, place: Path, point: str = "") -> None:
    """Stream three files, one to a micro-batch; where a point is named, end at its second time, and start again."""
    write_batches(place / "landing")
    passed: list[str] = []

    def at(step: str) -> None:
        passed.append(step)
        if step == point and passed.count(step) == (1 if point == "fold" else 2):
            raise Struck(step)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stream, "MicroBatches", partial(stream.MicroBatches, at=at))
        if point:
            with pytest.raises(Struck):
                stream.run(spark, config, available_now=True)
        stream.run(spark, config, available_now=True)
    assert {*POINTS} - ({"fold"} if not config.stream.fold_every else set()) <= {*passed}


@pytest.fixture(scope="module")
def unbroken(spark, trained, tmp_path_factory):
    """The outcome of a run that nothing cut off, by rules."""
    made: dict[str, dict[str, list[str]]] = {}

    def outcome_of(rules: str) -> dict[str, list[str]]:
        if rules not in made:
            place = tmp_path_factory.mktemp("unbroken")
            shutil.copytree(trained, place / "warehouse")
            config = settings(place / "warehouse", place / "landing", max_rows=1, **RULES[rules])
            run_batches(spark, config, place)
            made[rules] = outcome(spark, config)
        return made[rules]

    return outcome_of


@pytest.mark.parametrize(
    ("rules", "point"),
    [
        *(("exact", point) for point in POINTS),
        ("optimizers", "factor_updates"),
        ("optimizers", "fold"),
        ("exact both", "events"),
    ],
)
def test_a_run_cut_off_after_any_commit_ends_as_an_unbroken_one(spark, place, unbroken, rules, point):
    config = settings(place / "warehouse", place / "landing", max_rows=1, **RULES[rules])
    run_batches(spark, config, place, point)
    expected, found = unbroken(rules), outcome(spark, config)
    for table in TABLES:
        assert found[table] == expected[table], table


def stream_lines(spark, config: Config, rows: list[str]) -> dict[str, tuple]:
    """Stream events (user, item, type, second) as one file; return the users' factors."""
    text = "\n".join(["user,item,type,time", *(f"{row[:-2]}17002000{row[-2:]}" for row in rows)]) + "\n"
    (Path(config.stream.path) / "1.csv").write_text(text)
    assert stream.run(spark, config, available_now=True).accepted == len(rows)
    return factors(spark, config, "user")


def test_what_safeguards_let_through_is_learned_as_if_it_were_all(spark, place):
    shutil.copytree(place / "warehouse", place / "other")
    (place / "folder").mkdir()
    keys = {"item_rule": "off", "resolve_users": 40}
    guarded = settings(place / "warehouse", place / "landing", burst_events=4, events_per_user=2, **keys)
    plain = settings(place / "other", place / "folder", **keys)
    guarded, plain = (changed(c, ingest={"event_weights": {"interaction": 1, "share": 1}}) for c in (guarded, plain))
    before = factors(spark, plain, "user")
    learned = ["u951,i002,interaction,12", "u951,i003,interaction,13", "u001,i003,interaction,23",
               "u001,i001,interaction,22"]  # fmt: skip
    burst = [f"u950,i00{n},interaction,3{n}" for n in range(5)]
    capped = ["u951,i000,interaction,10", "u951,i001,interaction,11", "u001,i002,interaction,21"]
    unweighted = ["u002,i000,share,40"]  # the type had no weight in the training
    found = stream_lines(spark, guarded, [*burst, *capped, *learned, *unweighted])
    expected = stream_lines(spark, plain, learned)
    assert found["u002"][1] == before["u002"][1]
    assert {user: row for user, row in found.items() if user != "u002"} == {
        user: row for user, row in expected.items() if user != "u002"
    }
    (row,) = Tables(spark, guarded.tables).collect("stream_ledger")
    acted, metrics = row["acted"], row["metrics"]
    assert acted == {"quarantined_users": 1, "capped_events": 3 + 3, "unweighted_events": 1}
    assert 0 <= metrics["distance_p50"] <= metrics["distance_p95"]
    (row,) = Tables(spark, plain.tables).collect("stream_ledger")
    assert row["acted"] == {}


def test_events_that_others_append_are_learned_as_those_of_a_landing_folder(spark, place):
    shutil.copytree(place / "warehouse", place / "other")
    rows = [*lines(8, 30, first=EVENTS), "u901,i901,1,1700100000"]
    files = settings(place / "warehouse", place / "landing", item_rule="exact")
    write(place / "landing", "1.csv", rows)
    stream.run(spark, files, available_now=True)
    feed = settings(place / "other", place / "landing", item_rule="exact")
    feed = changed(feed, stream={"source": "changes"})
    assert stream.run(spark, feed, available_now=True).batches == 0
    ingest.run(spark, feed, [str(place / "landing")])
    result = stream.run(spark, feed, available_now=True)
    assert (result.batches, result.read, result.accepted, result.duplicates) == (1, 31, 31, 0)
    for side in ("user", "item"):
        assert factors(spark, feed, side) == factors(spark, files, side)
    assert [row["input_versions"] for row in Tables(spark, feed.tables).collect("stream_ledger")] == [{"events": 2}]


def test_what_a_newer_model_was_trained_on_is_not_learned_again(spark, place):
    config = settings(place / "warehouse", place / "landing")
    config = changed(config, stream={"source": "changes"})
    assert stream.run(spark, config, available_now=True).batches == 0
    write(place, "first.csv", lines(12, 20, first=EVENTS))
    write(place, "second.csv", second := lines(13, 20, users=9, first=EVENTS + 20))
    ingest.run(spark, config, [str(place / "first.csv")])
    publish.run(spark, config, train.run(spark, config).model_version)
    before = factors(spark, config, "user"), factors(spark, config, "item")
    result = stream.run(spark, config, available_now=True)
    assert (result.batches, result.accepted, result.users, result.items) == (1, 20, 0, 0)
    assert (factors(spark, config, "user"), factors(spark, config, "item")) == before
    ingest.run(spark, config, [str(place / "second.csv")])
    result = stream.run(spark, config, available_now=True)
    assert (result.batches, result.accepted, result.users) == (1, 20, len(users_of(second)))


def test_decay_is_measured_against_the_training(spark, place):
    config = settings(place / "warehouse", place / "landing", item_rule="off")
    config = changed(config, interactions={"half_life_days": 0.05, "log_scale": 0.5})
    interactions.run(spark, config)
    publish.run(spark, config, train.run(spark, config).model_version)
    items = factors(spark, config, "item")
    late = [f"u{n:03d},i{n + 2:03d},1,{1_700_000_000 + 60 * 100}" for n in range(3)]  # in the middle of the history
    write(place / "landing", "1.csv", late)
    assert stream.run(spark, config, available_now=True).accepted == 3
    assert_users_are_solved(spark, config, users_of(late), items)


def test_others_may_optimize_and_append_while_it_runs(spark, place, unbroken):
    config = settings(place / "warehouse", place / "landing", max_rows=1, **RULES["exact"])
    tables = Tables(spark, config.tables)
    write_batches(place / "landing")
    strange = tables.read("events").limit(1).selectExpr(
        "unhex(repeat('ff', 16)) AS event_id", "'nobody' AS user_id", "'nothing' AS item_id",
        "* EXCEPT (event_id, user_id, item_id)",
    ).toArrow()  # fmt: skip

    def at(step: str) -> None:
        if step == "events":
            for table in ("events", "user_factors", "stream_ledger", "factor_updates"):
                spark.sql(f"OPTIMIZE {tables.sql_name(table)}")
            tables.append("events", spark.createDataFrame(strange), txn=("another", 0))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stream, "MicroBatches", partial(stream.MicroBatches, at=at))
        stream.run(spark, config, available_now=True)
    expected, found = unbroken("exact"), outcome(spark, config)
    for table in {*TABLES} - {"events", "stream_ledger"}:
        assert found[table] == expected[table], table
    assert len(found["events"]) == len(expected["events"]) + 1
    assert len(found["stream_ledger"]) == len(expected["stream_ledger"])  # the versions in them differ


def test_a_model_that_does_not_fit_is_refused_with_its_size(spark, place):
    config = settings(place / "warehouse", place / "landing")
    write(place / "landing", "1.csv", lines(7, 5, first=EVENTS))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(live, "free_bytes", lambda: 1000)
        with pytest.raises(SetupError, match=r"has 40 users and 2\d items of rank 4, .* and 1e-06 GB are free"):
            stream.run(spark, config, available_now=True)
    assert stream.run(spark, config, available_now=True).accepted == 5


def test_a_model_of_interactions_from_elsewhere_is_refused(spark, place):
    config = settings(place / "warehouse", place / "landing")
    tables = Tables(spark, config.tables)
    tables.overwrite("interactions", tables.read("interactions", tables.version("interactions")), {"n": 1})
    publish.run(spark, config, train.run(spark, config).model_version)
    write(place / "landing", "1.csv", lines(8, 3, first=EVENTS))
    with pytest.raises(TableError, match=r"does not say what events it was made from; run 'lakefactor interactions'"):
        stream.run(spark, config, available_now=True)


def test_a_stream_that_another_has_overtaken_ends_before_it_writes(spark, place):
    config = settings(place / "warehouse", place / "landing", max_rows=1)
    tables = Tables(spark, config.tables)
    write_batches(place / "landing")

    def at(step: str) -> None:
        if step == "stream_ledger":
            (own,) = tables.collect("stream_ledger")
            tables.append_rows("stream_ledger", [own | {"stream": "other", "batch_id": 7}])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stream, "MicroBatches", partial(stream.MicroBatches, at=at))
        with pytest.raises(SetupError, match=r"stream 'other' has finished micro-batch 7 .* one stream at a time"):
            stream.run(spark, config, available_now=True)
    assert {row["batch_id"] for row in tables.collect("stream_ledger")} == {0, 7}
    assert {row["batch_id"] for row in tables.collect("factor_updates")} == {0}


def test_tables_of_a_catalog_are_streamed_as_those_of_a_folder(spark, place):
    schema = f"lake_{uuid.uuid4().hex}"
    config = settings(
        place / "warehouse", place / "landing", item_rule="exact", checkpoint=str(place / "checkpoints/s")
    )
    config = changed(config, tables={"root": "", "catalog": schema})
    try:
        write(place, "history.csv", lines(0, EVENTS))
        ingest.run(spark, config, [str(place / "history.csv")])
        publish.run(spark, config, train.run(spark, config).model_version)
        recommend.run(spark, config)
        rows = [*lines(9, 20, first=EVENTS), "u901,i001,1,1700100000"]
        write(place / "landing", "1.csv", [*rows, "u001,,1,1700100000"])
        result = stream.run(spark, config, available_now=True)
        assert (result.read, result.accepted, result.rejected) == (22, 21, 1)
        assert stream.run(spark, config, available_now=True).batches == 0
        tables = Tables(spark, config.tables)
        touched = {row["user_id"]: row for row in tables.collect("factor_updates") if row["side"] == "user"}
        assert set(touched) == users_of(rows)
        lists = {row["user_id"] for row in tables.collect("recommendations")}
        assert users_of(rows) <= lists
        for user, row in touched.items():
            items_of_user = tables.read("events").where(f"user_id = '{user}'").select("item_id").distinct().count()
            assert row["n_entries"] == items_of_user, user
    finally:
        spark.sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
