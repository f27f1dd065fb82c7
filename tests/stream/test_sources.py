from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.errors import InputError, TableError
from lakefactor.pipelines import ingest
from lakefactor.spark.stream_refusals import explained
from lakefactor.spark.stream_source import open_source
from lakefactor.spark.tables import Tables
from lakefactor.testing.streams import Batch, drain, in_order, streaming


def ingested(spark, config, *paths):
    """Ingest into a lake of its own, and return its events and rejects."""
    apart = Config(
        **{**dict(config), "tables": config.tables.model_copy(update={"root": config.tables.root + "-apart"})}
    )
    ingest.run(spark, apart, [str(path) for path in paths])
    tables = Tables(spark, apart.tables)
    return in_order(tables.read("events")), in_order(tables.read("rejects"))


def land(folder, name, *lines):
    """Move a whole file into a landing folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")
    part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return part.rename(path)


@pytest.fixture
def folder(tmp_path):
    """Landing folder whose name would be a pattern."""
    path = tmp_path / "landing [1]"
    path.mkdir()
    return path


GOOD_AND_BAD_CSV = ("user,item,rating,timestamp", "u1,i1,3,100", "u1,i1,3,100", "u1,i2,4,", "u1,i2,4,", ",i9,1,5", "u9")
GOOD_AND_BAD_JSON = ('{"user": 7, "item": "i1", "rating": 2}', '{"user": 8, "item": " "}', "{broken", "")


def test_a_file_gives_the_same_events_and_rejects_whether_it_is_streamed_or_ingested(spark, config, folder):
    land(folder, "a.csv", *GOOD_AND_BAD_CSV)
    land(folder, "2026 01/b.jsonl", *GOOD_AND_BAD_JSON)
    land(folder, "c.csv", "item_id,user_id", "i1,u1")
    spark.createDataFrame([("u1", "i7", 1.5)], "user string, item string, plays double").write.parquet(
        str(folder / "typed")
    )
    (batch,) = drain(spark, streaming(config, "files", path=str(folder)))
    events, rejects = ingested(spark, config, folder)
    assert batch.events == events
    assert batch.rejects == rejects

    assert (batch.read, batch.duplicates, batch.appended) == (6 + 3 + 1 + 1, 1, False)
    assert batch.reasons == {"line is malformed": 2, "user id is empty": 1, "item id is empty": 1}


def test_each_file_is_read_once_and_a_restart_goes_on_where_the_stream_stopped(spark, config, folder):
    settings = streaming(config, "files", path=str(folder))
    assert drain(spark, settings) == []  # the folder may be empty
    land(folder, "a.csv", "user,item,value,time", "u1,i1,1,100")
    (first,) = drain(spark, settings)
    assert drain(spark, settings) == []
    land(folder, "again.csv", "user,item,value,time", "u1,i1,1,100", "u2,i1,1,200")  # one of them delivered again
    land(folder, "empty.csv")
    land(folder, "no lines.csv", "", "")
    land(folder, "_hidden.csv", "no,columns,of,ours")
    (second,) = drain(spark, settings)
    assert (first.number, second.number, second.read) == (0, 1, 2)
    assert [event["event_id"] for event in first.events] == [
        event["event_id"] for event in second.events if event["user_id"] == "u1"
    ]
    assert drain(spark, settings) == []


def test_a_file_without_rows_is_a_micro_batch_without_rows(spark, config, folder):
    land(folder, "empty.csv")
    (batch,) = drain(spark, streaming(config, "files", path=str(folder)))
    assert batch == Batch(0, [], [], 0, 0, {}, False)


def test_a_micro_batch_has_about_as_many_rows_as_allowed(spark, config, folder):
    for number in range(4):
        land(folder, f"{number}.csv", "user,item", *(f"u{number:03d},i{item:032d}" for item in range(10)))
    batches = drain(spark, streaming(config, "files", path=str(folder), max_rows=20))
    assert [batch.read for batch in batches] == [20, 20]
    events, _ = ingested(spark, config, folder)
    assert sorted((event for batch in batches for event in batch.events), key=repr) == events


def test_an_old_file_is_read_too(spark, config, folder):
    settings = streaming(config, "files", path=str(folder))
    land(folder, "new.csv", "user,item", "u1,i1")
    drain(spark, settings)
    os.utime(land(folder, "old.csv", "user,item", "u2,i2"), (1e9, 1e9))  # as moving a file keeps its time
    (batch,) = drain(spark, settings)
    assert [event["user_id"] for event in batch.events] == ["u2"]


def test_a_file_that_cannot_be_read_holds_the_stream_until_it_is_corrected(spark, config, folder):
    settings = streaming(config, "files", path=str(folder))
    path = land(folder, "a.csv", "who,item", "u1,i1")
    with pytest.raises(InputError, match=r"no user column.*micro-batch 0 waits.*in its place.*start the stream again"):
        drain(spark, settings)
    path.write_text("user,item\nu1,i1\n")
    (batch,) = drain(spark, settings)
    assert [event["user_id"] for event in batch.events] == ["u1"]


def test_a_file_that_has_gone_holds_the_stream_until_it_is_back(spark, config, folder):
    settings = streaming(config, "files", path=str(folder))
    land(folder, "a.csv", "who,item", "u1,i1")
    land(folder, "b 1.csv", "user,item", "u2,i1")
    with pytest.raises(InputError, match="no user column"):
        drain(spark, settings)
    (folder / "a.csv").unlink()
    (folder / "b 1.csv").unlink()
    with pytest.raises(InputError, match=r"2 of the 2 files of micro-batch 0 have gone.* put them back.*b 1\.csv"):
        drain(spark, settings)
    land(folder, "a.csv")  # left out
    land(folder, "b 1.csv", "user,item", "u2,i1")
    assert users(drain(spark, settings)) == [["u2"]]


def test_a_folder_that_cannot_be_a_landing_folder_is_refused(spark, config, tmp_path):
    with pytest.raises(InputError, match=r"no folder is at .*absent; create it"):
        open_source(spark, streaming(config, "files", path=str(tmp_path / "absent")))
    spark.range(1).write.format("delta").save(str(tmp_path / "table"))
    with pytest.raises(InputError, match=r"table is a Delta table, not a folder of files"):
        open_source(spark, streaming(config, "files", path=str(tmp_path / "table")))


def append(spark, config, *users):
    """Append one event for each user, and return the version of `events` that has them."""
    tables = Tables(spark, config.tables)
    tables.ensure("events")
    rows = spark.createDataFrame([(user,) for user in users], "user_id string").selectExpr(
        "unhex(md5(user_id)) AS event_id",
        "user_id",
        "'i1' AS item_id",
        "'view' AS event_type",
        "1.0D AS value",
        "timestamp_seconds(100) AS event_time",
        "'elsewhere' AS source",
        "timestamp_seconds(200) AS ingested_at",
    )
    tables.append("events", rows)
    return tables.version("events")


def execute(spark, config, statement):
    """Run SQL in which {events} is the table."""
    spark.sql(statement.format(events=Tables(spark, config.tables).sql_name("events"))).collect()


def users(batches):
    return [sorted(event["user_id"] for event in batch.events) for batch in batches]


def test_the_change_feed_gives_what_was_added_since_the_first_version_and_goes_on(spark, config):
    append(spark, config, "u1")
    version = append(spark, config, "u2", "u3")
    settings = streaming(config, "changes")
    (first,) = drain(spark, settings, version)
    stored = in_order(Tables(spark, config.tables).read("events").where("user_id != 'u1'"))
    assert first == Batch(0, stored, [], 2, 0, {}, True)
    append(spark, config, "u4")
    execute(spark, config, "OPTIMIZE {events}")  # rewrites files, adds nothing
    append(spark, config, "u5")
    assert users(drain(spark, settings, 0)) == [["u4", "u5"]]  # the first version counts at the first start only
    assert drain(spark, settings, version) == []


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE {events} SET value = 2 WHERE user_id = 'u1'", "updated"),
        ("DELETE FROM {events} WHERE user_id = 'u1'", "deleted"),
        ("INSERT OVERWRITE {events} SELECT * FROM {events} WHERE user_id = 'u1'", "deleted"),
    ],
)
def test_events_that_were_changed_are_refused_and_the_stream_stays_where_it_is(spark, config, statement, what):
    version = append(spark, config, "u1", "u2")
    settings = streaming(config, "changes")
    drain(spark, settings, version)
    execute(spark, config, statement)
    for _ in range(2):
        with pytest.raises(TableError, match=rf"changed in version {version + 1}: rows were {what}.*stream\.name"):
            drain(spark, settings, version)


def test_a_stream_may_begin_after_the_newest_version_and_misses_nothing(spark, config):
    version = append(spark, config, "u1")
    settings = streaming(config, "changes")
    assert drain(spark, settings, version + 1) == []
    append(spark, config, "u2")
    assert users(drain(spark, settings, version + 1)) == [["u2"]]
    with pytest.raises(TableError, match=rf"start at version {version + 3} of table events .* is {version + 1}"):
        drain(spark, streaming(config, "changes", name="other"), version + 3)


def test_a_first_micro_batch_that_failed_begins_where_it_was_told_first(spark, config, monkeypatch):
    version = append(spark, config, "u1")
    settings = streaming(config, "changes")
    source = open_source(spark, settings, version)
    monkeypatch.setattr(source, "batch", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        drain(spark, settings, source=source)
    later = append(spark, config, "u2")
    assert users(drain(spark, settings, later)) == [["u1"], ["u2"]]


def test_a_table_whose_log_no_longer_holds_the_next_version_is_refused(spark, config):
    version = append(spark, config, "u1")
    settings = streaming(config, "changes")
    drain(spark, settings, version)
    append(spark, config, "u2")
    log = Path(config.tables.root, "events", "_delta_log")
    newest = append(spark, config, "u3")
    delta_log = spark._jvm.org.apache.spark.sql.delta.DeltaLog
    delta_log.forTable(spark._jsparkSession, str(log.parent)).checkpoint()
    for file in log.glob("*"):  # as Delta cleans up after delta.logRetentionDuration
        if file.name.lstrip(".")[:20].isdigit() and int(file.name.lstrip(".")[:20]) < newest:
            file.unlink()
    delta_log.clearCache()
    with pytest.raises(TableError, match=r"no longer holds the changes .*_LOG_FILE_NOT_FOUND.*another stream\.name"):
        drain(spark, settings)
    with pytest.raises(TableError, match=r"no longer holds the changes .*_VERSION_NOT_FOUND.*another stream\.name"):
        drain(spark, streaming(config, "changes", name="other"), version)


def test_a_table_whose_files_were_vacuumed_is_refused(spark, config):
    version = append(spark, config, "u1")
    settings = streaming(config, "changes")
    drain(spark, settings, version)
    append(spark, config, "u2")
    append(spark, config, "u3")
    execute(spark, config, "OPTIMIZE {events}")
    for file in Path(config.tables.root, "events").glob("*.parquet"):  # as VACUUM removes what OPTIMIZE has replaced
        file.unlink()
    with pytest.raises(TableError, match=r"no longer holds the changes .*FILE_NOT_EXIST.*another stream\.name"):
        drain(spark, settings)


def test_changed_columns_are_refused(spark, config, monkeypatch):
    version = append(spark, config, "u1")
    settings = streaming(config, "changes")
    drain(spark, settings, version)
    source = open_source(spark, settings, version)
    frame = source.frame()  # before the change, as of a stream that is running
    monkeypatch.setattr(source, "frame", lambda: frame)
    table = str(Path(config.tables.root, "events"))
    changed = spark.read.format("delta").load(table).withColumn("event_time", F.lit("then"))
    changed.write.format("delta").mode("overwrite").option("overwriteSchema", True).save(table)
    with pytest.raises(TableError, match=r"columns of table events were changed \(DELTA_\w+\); restore.*stream\.name"):
        drain(spark, settings, source=source)
    with pytest.raises(TableError, match="column event_time is STRING, not TIMESTAMP"):
        drain(spark, settings)


def test_a_table_that_was_created_again_is_refused(spark, config):
    version = append(spark, config, "u1")
    settings = streaming(config, "changes")
    drain(spark, settings, version)
    shutil.rmtree(Path(config.tables.root, "events"))
    append(spark, config, "u1")
    with pytest.raises(TableError, match=r"dropped and created again; .*another stream\.name"):
        drain(spark, settings)


def test_changes_that_were_not_recorded_are_refused(spark, config):
    version = append(spark, config, "u1")
    settings = streaming(config, "changes")
    drain(spark, settings, version)
    execute(spark, config, "ALTER TABLE {events} SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'false')")
    append(spark, config, "u2")
    with pytest.raises(TableError, match=r"change feed of table events was off .*enableChangeDataFeed to true"):
        drain(spark, settings)


def test_other_errors_are_not_explained_away(config):
    assert explained(ValueError("[SOMETHING_ELSE] happened"), config) is None
