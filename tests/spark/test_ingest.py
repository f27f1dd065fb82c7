from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.errors import ConfigError, InputError
from lakefactor.pipelines import ingest
from lakefactor.spark.tables import Tables


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def run(spark, config, *paths):
    result = ingest.run(spark, config, [str(path) for path in paths])
    assert result.read == result.accepted + result.duplicates + result.rejected
    assert result.rejected == sum(result.reasons.values())
    return result


def counts(result):
    return result.read, result.accepted, result.duplicates, result.rejected


def events(spark, config):
    found = Tables(spark, config.tables).read("events").withColumn("event_time", F.unix_seconds("event_time"))
    rows = found.select("user_id", "item_id", "event_type", "value", "event_time").collect()
    return sorted(map(tuple, rows), key=repr)


def rejects(spark, config):
    found = Tables(spark, config.tables).read("rejects").select("source", "reason", "content").collect()
    return sorted((row.source.rpartition("/")[2], row.reason, row.content) for row in found)


def versions(spark, config):
    tables = Tables(spark, config.tables)
    return {name: tables.version(name) for name in ("events", "rejects", "interactions")}


def with_tables(config, **changes):
    return Config(**{**dict(config), "tables": config.tables.model_copy(update=changes)})


RATINGS = ("user,item,rating,timestamp", "u1,i1,3,100", "u1,i2,4,200", "u2,i1,5,300")
RATED = [
    ("u1", "i1", "interaction", 3.0, 100),
    ("u1", "i2", "interaction", 4.0, 200),
    ("u2", "i1", "interaction", 5.0, 300),
]


def test_good_rows_become_events_and_bad_rows_rejects_and_nothing_is_lost(spark, config, tmp_path):
    path = write(tmp_path / "a.csv", *RATINGS, "u1,i1,3,100", ",i9,1,5", "u9,i9,x,5", "u9,i9,x,5", "u9")
    result = run(spark, config, path)
    assert counts(result) == (8, 3, 1, 4)
    assert result.reasons == {"value is not a number": 2, "line is malformed": 1, "user id is empty": 1}
    assert events(spark, config) == RATED
    bad = '{"user":"u9","item":"i9","rating":"x","timestamp":"5"}'
    assert rejects(spark, config) == [
        ("a.csv", "line is malformed", "u9"),
        ("a.csv", "user id is empty", '{"item":"i9","rating":"1","timestamp":"5"}'),
        ("a.csv", "value is not a number", bad),
        ("a.csv", "value is not a number", bad),
    ]
    record = json.loads(result.model_dump_json())
    assert (record["accepted"], record["interactions"]["pairs"], record["interactions"]["users"]) == (3, 3, 2)
    assert result.summary() == (
        "8 rows read: 3 events accepted, 1 known already, 4 rejected "
        "(value is not a number: 2, line is malformed: 1, user id is empty: 1)"
    )


def test_the_same_file_again_changes_nothing(spark, config, tmp_path):
    timed = write(tmp_path / "timed.csv", *RATINGS, "u1,i1,3,100", ",i9,1,5", "u9,i9,x,5", "u9,i9,x,5")
    untimed = write(tmp_path / "untimed.csv", "user,item", "u1,i1", "u1,i1", "u2,i1", ",i1")
    first = run(spark, config, timed, untimed)
    before = versions(spark, config)
    again = run(spark, config, untimed, timed)
    assert versions(spark, config) == before
    assert counts(again) == (first.read, 0, first.accepted + first.duplicates, first.rejected)
    assert again.reasons == first.reasons
    assert again.interactions == first.interactions


def test_an_event_with_a_time_is_one_event_whatever_files_and_formats_bring_it(spark, config, tmp_path):
    run(spark, config, write(tmp_path / "a.csv", *RATINGS))
    with gzip.open(tmp_path / "b.csv.gz", "wt") as packed:
        packed.write("item,date,score,uid\ni1,1970-01-01T00:01:40Z,3.0,u1\n")
    write(tmp_path / "c.jsonl", '{"user": "u1", "item": "i2", "value": 4, "ts": 200.0}')
    frame = spark.sql("SELECT 'u2' user, 'i1' item, 5 rating, TIMESTAMP'1970-01-01 00:05:00Z' time")
    frame.write.parquet(str(tmp_path / "d"))
    frame.write.format("delta").save(str(tmp_path / "e"))
    result = run(spark, config, *(tmp_path / name for name in ("b.csv.gz", "c.jsonl", "d", "e")))
    assert counts(result) == (4, 0, 4, 0)
    assert events(spark, config) == RATED


def test_rows_without_a_time_add_up_and_a_grown_file_adds_what_is_new(spark, config, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    first = write(folder / "a.csv", "user,item", "u1,i1", "u1,i1", "u2,i1")
    assert counts(run(spark, config, first)) == (3, 3, 0, 0)
    other = write(folder / "b.csv", "user,item", "u1,i1")
    assert counts(run(spark, config, other)) == (1, 1, 0, 0)
    write(folder / "a.csv", "user,item", "u1,i1", "u1,i1", "u1,i1", "u2,i1", "u3,i1")
    assert counts(run(spark, config, folder)) == (6, 2, 4, 0)
    strengths = Tables(spark, config.tables).read("interactions").select("user_id", "strength").collect()
    assert sorted(tuple(row) for row in strengths) == [("u1", 4.0), ("u2", 1.0), ("u3", 1.0)]


def test_a_path_with_dots_is_the_same_source(spark, config, tmp_path):
    (tmp_path / "sub").mkdir()
    path = write(tmp_path / "a b.csv", "user,item", "u1,i1", "u1,i1")
    run(spark, config, path)
    assert counts(run(spark, config, tmp_path / "sub" / ".." / "a b.csv")) == (2, 0, 2, 0)
    (source,) = {row.source for row in Tables(spark, config.tables).read("events").collect()}
    assert source.endswith("/a b.csv")
    assert ".." not in source


@pytest.mark.parametrize("fails", ["rejects", "events", "interactions"])
def test_a_run_that_died_is_completed_by_running_it_again(spark, config, tmp_path, monkeypatch, fails):
    path = write(tmp_path / "a.csv", "user,item", "u1,i1", "u1,i1", "u2,i1", ",i1", ",i1")

    class Killed(Exception):
        pass

    def dying(method):
        def call(self, table, *args):
            if table == fails:
                raise Killed
            return method(self, table, *args)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Tables, "merge_new", dying(Tables.merge_new))
        patch.setattr(Tables, "overwrite", dying(Tables.overwrite))
        with pytest.raises(Killed):
            run(spark, config, path)
    result = run(spark, config, path)
    assert (result.read, result.rejected, result.interactions.pairs) == (5, 2, 2)
    assert events(spark, config) == [
        *[("u1", "i1", "interaction", 1.0, None)] * 2,
        ("u2", "i1", "interaction", 1.0, None),
    ]
    assert rejects(spark, config) == [("a.csv", "user id is empty", '{"item":"i1"}')] * 2
    assert {row.n_events for row in Tables(spark, config.tables).read("interactions").collect()} == {1, 2}


def test_integer_ids_of_typed_files_stay_integers_and_decide_for_later_text_files(spark, config, tmp_path):
    spark.sql("SELECT 5000000000L user, 7 item").write.parquet(str(tmp_path / "a"))
    run(spark, config, tmp_path / "a")
    result = run(spark, config, write(tmp_path / "b.csv", "user,item", "5000000001,7", "u1,7"))
    assert result.reasons == {"user id is not a 64-bit integer": 1}
    assert [row[:2] for row in events(spark, config)] == [(5_000_000_000, 7), (5_000_000_001, 7)]
    assert Tables(spark, config.tables).id_types("interactions") == ("long", "long")


def test_text_files_give_text_ids_unless_configured(spark, config, tmp_path):
    path = write(tmp_path / "a.csv", "user,item", "007,08")
    longs = with_tables(config, user_id_type="long")
    run(spark, longs, path)
    assert [row[:2] for row in events(spark, longs)] == [(7, "08")]
    with pytest.raises(ConfigError, match=r"tables\.user_id_type is string, but user_id of table events at .* is long"):
        run(spark, with_tables(config, user_id_type="string"), path)


def test_a_file_of_column_names_alone_gives_nothing_and_says_so(spark, config, tmp_path):
    result = run(spark, config, write(tmp_path / "a.csv", "user,item,rating"))
    assert counts(result) == (0, 0, 0, 0)
    assert "no rows" in result.summary()
    assert events(spark, config) == rejects(spark, config) == []
    assert result.interactions.pairs == 0


@pytest.mark.parametrize(
    ("lines", "users", "items"),
    [
        (["u,a,1", "u,b,2", "u,c,3"], 1, 3),  # one user
        (["a,i,1", "b,i,2", "c,i,3"], 3, 1),  # one item
        (["a,i,1", "b,j,1", "c,k,1"], 3, 3),  # all values equal
    ],
)
def test_little_variety_is_no_error(spark, config, tmp_path, lines, users, items):
    result = run(spark, config, write(tmp_path / "a.csv", "user,item,rating", *lines))
    assert (result.accepted, result.interactions.users, result.interactions.items) == (3, users, items)


def test_only_bad_rows_are_all_kept_as_rejects(spark, config, tmp_path):
    result = run(spark, config, write(tmp_path / "a.csv", "user,item", ",", ","))
    assert counts(result) == (2, 0, 0, 2)
    assert rejects(spark, config) == [("a.csv", "user id is empty", "{}")] * 2
    assert events(spark, config) == []


def test_a_truncated_file_is_refused_and_nothing_is_written(spark, config, tmp_path):
    whole = gzip.compress("\n".join(["user,item", *(f"u{n},i{n}" for n in range(50_000))]).encode())
    (tmp_path / "a.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot be read to its end: .*a\.csv\.gz"):
        run(spark, config, tmp_path / "a.csv.gz")
    assert not Tables(spark, config.tables).exists("events")


def test_a_path_with_a_password_is_refused_and_not_shown(spark, config):
    with pytest.raises(InputError, match="must not hold a password") as refused:
        ingest.run(spark, config, ["s3a://key:canary@bucket/events"])
    assert "canary" not in str(refused.value)


def test_any_mix_of_rows_adds_up(spark, config, tmp_path):
    random = np.random.default_rng(3)
    texts = [["u1", "u2", "", '"q""q"'], ["i1", "i2", "ü"], ["1", "2", "x", "NaN"], ["5", "6", "", "never"]]
    rows = [[str(random.choice(field)) for field in texts] for _ in range(600)]
    lines = [",".join(row[: random.choice([4, 4, 4, 4, 3])]) for row in rows]
    good = [
        (user.strip('"').replace('""', '"'), item, "interaction", float(value), int(time) if time else None)
        for user, item, value, time in (line.split(",") for line in lines if line.count(",") == 3)
        if user and value in "12" and time != "never"
    ]
    wanted = sorted(
        [*{row for row in good if row[-1] is not None}, *(row for row in good if row[-1] is None)], key=repr
    )
    result = run(spark, config, write(tmp_path / "a.csv", "user,item,rating,time", *lines))
    assert events(spark, config) == wanted
    assert counts(result) == (600, len(wanted), len(good) - len(wanted), 600 - len(good))
    assert len(rejects(spark, config)) == result.rejected > 100


@pytest.mark.data
@pytest.mark.slow
def test_ml_100k_comes_in_whole(spark, config, data_dir):
    result = run(spark, config, data_dir / "ml-100k" / "ratings.csv")
    assert counts(result) == (100_000, 100_000, 0, 0)
    assert (result.interactions.pairs, result.interactions.users, result.interactions.items) == (100_000, 943, 1682)
