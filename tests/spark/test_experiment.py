"""experiment: assignments that every engine agrees on, and analyses of logs whose truth is known."""

from __future__ import annotations

import datetime as dt

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from lakefactor.config import Config, changed
from lakefactor.contracts.assignment import variant_of, variant_sql
from lakefactor.errors import ConfigError, InputError, TableError, UnknownIdError
from lakefactor.metrics.experiment import assign
from lakefactor.pipelines import experiment
from lakefactor.pipelines.models import readable_versions
from lakefactor.query import Reader
from lakefactor.spark.suppression import SUPPRESSED, Suppression, make_salt
from lakefactor.spark.tables import Tables
from lakefactor.testing.interactions import random_interactions
from lakefactor.testing.tables import write_interactions

START = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
USERS = [f"u{n}" for n in range(3000)]
SHARES = {"control": 0.5, "tuned": 0.5}
RATE = {"control": 0.2, "tuned": 0.35}


def models(tables: Tables, *versions: str) -> None:
    tables.ensure("models")
    row = {
        "created_at": START, "algorithm": "ials", "rank": 4, "identity": "x", "config": "{}", "seed": 1,
        "input_versions": {"interactions": 0}, "library_versions": {}, "n_users": 1, "n_items": 1, "n_interactions": 1,
        "mean": 0.0, "min_strength": 1.0, "max_strength": 1.0, "objective": 0.0, "objective_history": [0.0],
        "train_seconds": 1.0,
    }  # fmt: skip
    tables.append_rows("models", [row | {"model_version": version} for version in versions])


def events(spark, tables: Tables, rows: list[tuple[str, str, dt.datetime]]) -> None:
    tables.ensure("events")
    frame = spark.createDataFrame(
        pa.table(
            {
                "event_id": [n.to_bytes(16, "big") for n in range(len(rows))],
                "user_id": [row[0] for row in rows],
                "item_id": ["i"] * len(rows),
                "event_type": [row[1] for row in rows],
                "value": [1.0] * len(rows),
                "event_time": pa.array([row[2] for row in rows], pa.timestamp("us", tz="UTC")),
                "source": ["test"] * len(rows),
                "ingested_at": pa.array([START] * len(rows), pa.timestamp("us", tz="UTC")),
            }
        )
    )
    tables.append("events", frame)


def log(path, users: list[str], variants: list[str]) -> str:
    exposed = pa.array([START] * len(users), pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({"user_id": users, "variant": variants, "exposed_at": exposed}), path)
    return str(path)


@pytest.fixture(scope="module")
def world(spark, tmp_path_factory):
    """(configuration, tables, users' variants, users' outcomes): purchases within, before and after the window."""
    root = tmp_path_factory.mktemp("experiment") / "warehouse"
    config = changed(
        Config(),
        {
            "tables.root": str(root),
            "experiment.variants": {"control": "v1", "tuned": "v2"},
            "experiment.outcomes": {"buy": 2.0, "view": 0.0},
            "experiment.window_days": 7.0,
            "experiment.planned_users": len(USERS),
        },
    )
    tables = write_interactions(spark, config, random_interactions(5, 4, 10, seed=1))
    models(tables, "v1", "v2", "v3")
    variants = [variant_of(user, "lift", SHARES) for user in USERS]
    random = np.random.default_rng(5)
    bought = random.random(len(USERS)) < [RATE[variant] for variant in variants]
    times = bought * random.integers(1, 4, len(USERS))
    day = dt.timedelta(days=1)
    rows = [(user, "buy", START + n * day) for user, count in zip(USERS, times, strict=True) for n in range(count)]
    rows += [(user, "buy", START + when * day) for user in USERS[:500] for when in (-1, 7)]
    rows += [(user, "view", START + day) for user in USERS] + [("stranger", "buy", START + day)]
    events(spark, tables, rows)
    return config, tables, variants, times


def test_a_planted_lift_is_found(spark, world, tmp_path):
    config, tables, variants, times = world
    experiment.run(spark, config, "start", "lift")
    path = log(tmp_path / "log.parquet", USERS, variants)
    for _ in range(2):
        taken = experiment.run(spark, config, "expose", "lift", [path])
        assert (taken.exposed, taken.rejected, taken.running) == (len(USERS), 0, True)
    result = experiment.run(spark, config, "analyse", "lift")
    assert result.trusted
    effects = {(effect.metric, effect.variant): effect for effect in result.effects}
    for metric, value in (("users_with_outcome", times > 0), ("outcome_per_user", 2.0 * times)):
        of = {name: value[np.array(variants) == name].astype(float) for name in RATE}
        for name in RATE:
            assert effects[metric, name].users == len(of[name])
            assert effects[metric, name].value == pytest.approx(of[name].mean())
        expected = stats.ttest_ind(of["tuned"], of["control"], equal_var=False)
        found, interval = effects[metric, "tuned"], expected.confidence_interval(0.95)
        assert found.difference == pytest.approx(of["tuned"].mean() - of["control"].mean())
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
        assert found.p_value == pytest.approx(expected.pvalue)
        assert 0 < found.any_time_low < found.low
        assert effects[metric, "control"].difference is None
    lift = effects["users_with_outcome", "tuned"]
    assert lift.low < RATE["tuned"] - RATE["control"] < lift.high

    experiment.run(spark, config, "analyse", "lift", [path])  # of the same state of the tables: recorded once
    kept = tables.collect("experiment_results", {"experiment": "lift"})
    recorded = [{name: row[name] for name in type(lift).model_fields} for row in kept]
    of = {(row["metric"], row["variant"]): row for row in recorded}
    assert len(of) == len(recorded)
    assert of == {key: effect.model_dump() for key, effect in effects.items()}
    assert {row["sample_ratio_p_value"] for row in kept} == {result.sample_ratio_p_value}


def test_variants_that_are_the_same_differ_by_chance_alone_and_lost_users_are_noticed(spark, world, tmp_path, capfd):
    """The purchases of `world` depend on its own assignment, from which that of another name is independent."""
    config, _, _, _ = world
    variants = [variant_of(user, "same", SHARES) for user in USERS]
    lost = [n for n, variant in enumerate(variants) if variant == "control" or n % 5]
    for name, kept in (("same", range(len(USERS))), ("same, lost", lost)):
        experiment.run(spark, config, "start", name)
        path = log(tmp_path / f"{len(kept)}.parquet", [USERS[n] for n in kept], [variants[n] for n in kept])
        experiment.run(spark, config, "expose", name, [path])
    whole = experiment.run(spark, config, "analyse", "same")
    assert whole.trusted
    for effect in whole.effects:
        if effect.variant == "tuned":
            assert effect.any_time_low < effect.low < 0 < effect.high < effect.any_time_high
            assert effect.p_value > 0.05
    assert "no effect below can be trusted" not in capfd.readouterr().err
    broken = experiment.run(spark, config, "analyse", "same, lost")
    assert broken.trusted is False
    assert broken.sample_ratio_p_value < 1e-3
    assert "no effect below can be trusted" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize("ids", [["O'Brien", "日本", "a:b", "", *USERS[:200]], [0, -5, 2**62, *range(200)]])
def test_every_engine_assigns_alike(spark, ids):
    salt, shares = "it's \\ a test", {"b": 0.2, "a": 0.3, "it's c": 0.5}
    expected = [variant_of(user, salt, shares) for user in ids]
    assert set(expected) == set(shares)
    numbers = assign(pa.array(ids), salt, [shares[name] for name in sorted(shares)])
    assert [sorted(shares)[number] for number in numbers] == expected
    table = pa.table({"n": range(len(ids)), "user_id": ids})
    by_spark = spark.createDataFrame(table).selectExpr("n", f"{variant_sql('user_id', salt, shares, 'spark')} AS v")
    assert [row.v for row in by_spark.orderBy("n").collect()] == expected
    with duckdb.connect() as connection:
        connection.register("ids", table)
        query = f"SELECT {variant_sql('user_id', salt, shares, 'duckdb')} FROM ids ORDER BY n"
        assert [row[0] for row in connection.execute(query).fetchall()] == expected


def test_a_running_test_is_read_by_applications_and_keeps_its_versions(spark, world):
    config, tables, _, _ = world
    experiment.run(spark, config, "start", "read")
    reader = Reader(config.tables)
    (row,) = reader.variant("read", "ann").to_pylist()
    name = variant_of("ann", "read", SHARES)
    version = config.experiment.variants[name]
    assert row == {"experiment": "read", "user_id": "ann", "variant": name, "model_version": version, "running": True}
    assert {"v1", "v2"} <= readable_versions(tables)
    with pytest.raises(UnknownIdError, match="table experiments holds no 'other'"):
        reader.variant("other", "ann")
    for running in [row["experiment"] for row in tables.collect("experiments") if row["ended_at"] is None]:
        assert experiment.run(spark, config, "stop", running).running is False
    ended = tables.collect("experiments", {"experiment": "read"})
    assert experiment.run(spark, config, "stop", "read").running is False
    assert tables.collect("experiments", {"experiment": "read"}) == ended
    assert reader.variant("read", "ann").to_pylist()[0]["running"] is False
    assert "v2" not in readable_versions(tables)


def test_bad_definitions_and_exposures_are_refused(spark, world, tmp_path):
    config, tables, _, _ = world
    unknown = changed(config, {"experiment.variants": {"control": "v1", "tuned": "v9"}})
    with pytest.raises(ConfigError, match=r"experiment\.variants\.tuned: table models does not hold .*'v9'"):
        experiment.run(spark, unknown, "start", "bad")
    with pytest.raises(ConfigError, match=r"experiment\.variants is empty"):
        experiment.run(spark, changed(config, {"experiment.variants": {}}), "start", "bad")
    for values, message in (
        ({"experiment.shares": {"control": 0.5, "tuned": 0.6}}, "experiment.shares add up to 1.1, not 1"),
        ({"experiment.shares": {"control": 1.0}}, "experiment.shares must name the same variants: control, tuned"),
        ({"experiment.control": "old"}, "experiment.control 'old' is none of the variants: control, tuned"),
        ({"experiment.variants": {"control": "v1"}}, "has 1 variant: give two or more"),
        ({"experiment.outcomes": {"buy": 0.0}}, "no event type that is worth anything"),
    ):
        with pytest.raises(ConfigError) as refused:
            changed(config, values)
        assert message in str(refused.value)
    with pytest.raises(InputError, match="experiment expose: give files or tables"):
        experiment.run(spark, config, "expose", "bad")
    with pytest.raises(InputError, match=r"experiment start takes no files; found 'log\.csv'"):
        experiment.run(spark, config, "start", "bad", ["log.csv"])
    with pytest.raises(TableError, match="table experiments holds no 'never'"):
        experiment.run(spark, config, "analyse", "never")
    experiment.run(spark, config, "start", "once")
    other = changed(config, {"experiment.variants": {"control": "v1", "tuned": "v3"}})
    with pytest.raises(InputError, match="experiment 'once' runs, with another definition; give another name"):
        experiment.run(spark, other, "start", "once")

    lines = ["user_id,variant,exposed_at", "ann,control,2026-01-02 10:00:00", "ann,tuned,2026-01-01 10:00:00"]
    lines += [",control,2026-01-01 10:00:00", "bob,purple,2026-01-01 10:00:00", "cy,tuned,yesterday"]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(lines) + "\n")
    for _ in range(2):
        taken = experiment.run(spark, config, "expose", "once", [str(path)])
        assert (taken.exposed, taken.rejected) == (1, 3)
    (kept,) = tables.collect("exposures", {"experiment": "once"})
    assert (kept["user_id"], kept["variant"], kept["exposed_at"].day) == ("ann", "tuned", 1)
    reasons = [row["reason"] for row in tables.collect("rejects", {"source": str(path)})]
    assert sorted(reasons) == ["no time", "no user id, or not one of the table", "no variant of the experiment"]
    path.write_text("user,variant\nann,control\n")
    with pytest.raises(InputError, match="lacks the columns user_id, exposed_at"):
        experiment.run(spark, config, "expose", "once", [str(path)])
    with pytest.raises(InputError, match="exposures cannot be read from"):
        experiment.run(spark, config, "expose", "once", [str(tmp_path / "no.parquet")])
    experiment.run(spark, config, "stop", "once")
    with pytest.raises(InputError, match="experiment 'once' is stopped; give another name"):
        experiment.run(spark, config, "start", "once")


def test_exposures_of_who_was_forgotten_are_refused_and_name_nobody(spark, world, tmp_path):
    config, tables, _, _ = world
    experiment.run(spark, config, "start", "later")
    forgotten = Suppression(make_salt(config)).hash("dee")
    tables.ensure("suppressions")
    tables.append_rows("suppressions", [{"user_hash": forgotten, "suppressed_at": START}])
    path = tmp_path / "log.csv"
    path.write_text("user_id,variant,exposed_at\ndee,control,2026-01-02\nann,control,2026-01-02\ndee,purple,never\n")
    taken = experiment.run(spark, config, "expose", "later", [str(path)])
    assert (taken.exposed, taken.rejected) == (1, 2)
    assert [row["user_id"] for row in tables.collect("exposures", {"experiment": "later"})] == ["ann"]
    rejects = tables.collect("rejects", {"source": str(path)})
    assert {(row["reason"], row["content"]) for row in rejects} == {(SUPPRESSED, "")}
