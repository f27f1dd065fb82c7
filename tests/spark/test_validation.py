"""Reading and judging rows, without any table: files in, (event or reason) out."""

from __future__ import annotations

import gzip
import json
from datetime import datetime, timezone
from decimal import Decimal

import pytest

from lakefactor.config import Ingest
from lakefactor.errors import InputError
from lakefactor.spark.sources import read_sources
from lakefactor.spark.validation import check_rows

NOW = datetime(2024, 6, 1, tzinfo=timezone.utc)
FIELDS = ("user_id", "item_id", "event_type", "value", "CAST(event_time AS STRING)")


def judged(spark, path, ingest=None, id_types=("string", "string")):
    ingest = ingest or Ingest()
    (raw,) = read_sources(spark, ingest, [str(path)])
    return check_rows(raw, ingest, id_types, NOW)


def events(spark, path, ingest=None, id_types=("string", "string")):
    found = judged(spark, path, ingest, id_types)
    assert found.where("reason IS NOT NULL OR content IS NOT NULL").count() == 0
    return [tuple(row) for row in found.selectExpr(*FIELDS).collect()]


def faults(spark, path, ingest=None, id_types=("string", "string")):
    return [(row.reason, row.content) for row in judged(spark, path, ingest, id_types).collect()]


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


STRANGE_IDS = ["a b", " leading", "trailing ", 'say "hi"', "it's", "x,y", "Zoë Ω 日本 🎵", "x" * 300, "007", "a\\b",
               "'; DROP TABLE events; --", "../../etc/passwd", "NULL", "NaN", "\\N"]  # fmt: skip


def test_ids_are_kept_byte_for_byte_in_csv(spark, tmp_path):
    lines = ['"' + name.replace('"', '""') + '",item' for name in STRANGE_IDS]
    found = events(spark, write(tmp_path / "a.csv", "user,item", *lines))
    assert [row[0] for row in found] == STRANGE_IDS


def test_ids_are_kept_byte_for_byte_in_json(spark, tmp_path):
    names = [*STRANGE_IDS, "two\nlines", "tab\t"]
    lines = [json.dumps({"user": name, "item": "item", "value": 1}) for name in names]
    assert [row[0] for row in events(spark, write(tmp_path / "a.jsonl", *lines))] == names


BAD_ROWS = [
    (",i1,view,1,5", "user id is empty"),
    ('"",i1,view,1,5', "user id is empty"),
    ('"  ",i1,view,1,5', "user id is empty"),
    ("u1,,view,1,5", "item id is empty"),
    (f"{'u' * 21},i1,view,1,5", "user id is too long"),
    (f"u1,{'é' * 21},view,1,5", "item id is too long"),
    ("u1,i1,stare,1,5", "event type is unknown"),
    ("u1,i1,View,1,5", "event type is unknown"),
    ("u1,i1,view,five,5", "value is not a number"),
    ("u1,i1,view,5d,5", "value is not a number"),
    ("u1,i1,view,1 000,5", "value is not a number"),
    ("u1,i1,view,NaN,5", "value is not finite"),
    ("u1,i1,view,-Infinity,5", "value is not finite"),
    ("u1,i1,view,1e999,5", "value is not finite"),
    ("u1,i1,view,100.5,5", "value is out of range"),
    ("u1,i1,view,-0.5,5", "value is out of range"),
    ("u1,i1,view,1,yesterday", "event time cannot be read"),
    ("u1,i1,view,1,12:30", "event time cannot be read"),
    ("u1,i1,view,1,2024-02-30", "event time cannot be read"),
    ("u1,i1,view,1,1e300", "event time cannot be read"),
    ("u1,i1,view,1,-1", "event time is before 1970"),
    ("u1,i1,view,1,1969-12-31", "event time is before 1970"),
    ("u1,i1,view,1,2024-06-02T00:00:01Z", "event time is in the future"),
    ("u1,i1,view,1,1717286401000", "event time is in the future"),
    ("u1,i1,view,1", "line is malformed"),
    ("u1,i1,view,1,5,6", "line is malformed"),
    ('"u1,i1,view,1,5', "line is malformed"),
    (",,stare,NaN,-1", "user id is empty"),
]


def test_a_bad_row_is_refused_for_the_first_thing_wrong_with_it(spark, tmp_path):
    ingest = Ingest(min_value=0, max_value=100, max_id_length=20)
    lines = [line for line, _ in BAD_ROWS]
    found = faults(spark, write(tmp_path / "a.csv", "user,item,type,value,time", *lines, "good,i1,view,1,5"), ingest)
    assert [(line, reason) for line, (reason, _) in zip(lines, found, strict=False)] == BAD_ROWS
    assert found[-1] == (None, None)
    assert [content for reason, content in found if reason == "line is malformed"] == lines[-4:-1]
    assert json.loads(found[-2][1]) == {"type": "stare", "value": "NaN", "time": "-1"}


def test_bytes_that_are_not_utf8_are_refused_and_not_merged_into_one_id(spark, tmp_path):
    path = tmp_path / "latin1.csv"
    path.write_bytes("user,item\nZoë,i1\nZoï,i1\n".encode("latin-1"))
    assert [reason for reason, _ in faults(spark, path)] == ["user id is not UTF-8 text"] * 2


TIMES = [
    ("881250949", "1997-12-04 15:55:49"),
    ("881250949.25", "1997-12-04 15:55:49.25"),
    ("1700000000123", "2023-11-14 22:13:20.123"),
    ("2024-01-31", "2024-01-31 00:00:00"),
    ("20240131", "2024-01-31 00:00:00"),
    ("2024-01-31 10:11:12.5", "2024-01-31 10:11:12.5"),
    ("2024-01-31T10:11:12Z", "2024-01-31 10:11:12"),
    ("2024-01-31T10:11:12+02:00", "2024-01-31 08:11:12"),
    ("0", "1970-01-01 00:00:00"),
    ("2024-06-01T23:59:59Z", "2024-06-01 23:59:59"),
    ("", None),
]


def test_times_are_iso_or_epoch_and_utc(spark, tmp_path):
    found = events(spark, write(tmp_path / "a.csv", "user,item,time", *(f"u,i,{text}" for text, _ in TIMES)))
    assert [(text, row[-1]) for (text, _), row in zip(TIMES, found, strict=True)] == TIMES


def test_an_empty_value_is_one_where_the_row_has_a_type_and_refused_where_it_has_none(spark, tmp_path):
    typed = write(tmp_path / "typed.csv", "user,item,type,value", "u,i,view,", "u,i,,3", "u,i,delete,")
    assert events(spark, typed) == [
        ("u", "i", "view", 1.0, None),
        ("u", "i", "interaction", 3.0, None),
        ("u", "i", "delete", 1.0, None),
    ]
    untyped = write(tmp_path / "untyped.csv", "user,item,rating", "u,i,")
    assert faults(spark, untyped) == [("value is empty", '{"user":"u","item":"i"}')]


def test_long_ids_take_64_bits_and_refuse_what_is_no_integer(spark, tmp_path):
    path = write(tmp_path / "a.csv", "user,item", f"{2**40},a", f"{-(2**63)},a", f"{2**63},a", "1.5,a", "u1,a", "007,a")
    found = judged(spark, path, id_types=("long", "string")).collect()
    assert [(row.user_id, row.reason) for row in found] == [
        (2**40, None),
        (-(2**63), None),
        *[(None, "user id is not a 64-bit integer")] * 3,
        (7, None),
    ]


def test_json_lines_keep_numbers_as_written_and_refuse_what_is_no_object(spark, tmp_path):
    lines = ['{"user_id": 12345678901, "item": "a", "value": 2.50}', "nope", "[1]", '{"item": "a", "value": 1}',
             '{"user_id": 1, "item": "a", "value": NaN}']  # fmt: skip
    found = judged(spark, write(tmp_path / "a.jsonl", *lines), id_types=("long", "string")).collect()
    assert [(row.user_id, row.reason) for row in found] == [
        (12345678901, None),
        (None, "line is malformed"),
        (None, "line is malformed"),
        (None, "user id is empty"),
        (1, "value is not finite"),
    ]
    assert [row.content for row in found[1:3]] == ["nope", "[1]"]
    assert found[0].value == 2.5


def test_parquet_keeps_its_types(spark, tmp_path):
    path = str(tmp_path / "events.parquet")
    row = "2L AS user_id, CAST(7 AS DECIMAL(20,0)) AS item_id, CAST(3 AS FLOAT) AS rating, {} AS ts"
    for time in ("TIMESTAMP'2024-01-02 03:04:05Z'", "DATE'2024-01-02'", "1704164645L", "CAST(NULL AS TIMESTAMP)"):
        spark.sql("SELECT " + row.format(time)).write.mode("overwrite").parquet(path)
        (raw,) = read_sources(spark, Ingest(), [path])
        assert raw.integral_ids == {"user": True, "item": True}
        expected = {"D": "2024-01-02 00:00:00", "C": None}.get(time[0], "2024-01-02 03:04:05")
        assert events(spark, path, id_types=("long", "string")) == [(2, "7", "interaction", 3.0, expected)]


def test_folders_named_column_equals_value_are_columns(spark, tmp_path):
    for kind, user in (("view", "007"), ("purchase", "7")):
        folder = tmp_path / "in" / f"event_type={kind}" / f"user={user}"
        folder.mkdir(parents=True)
        write(folder / "part.csv", "item", "i1")
    found = events(spark, tmp_path / "in")
    assert sorted(found) == [("007", "i1", "view", 1.0, None), ("7", "i1", "purchase", 1.0, None)]


def test_a_folder_is_read_with_what_is_below_it_and_without_what_is_hidden(spark, tmp_path):
    folder = tmp_path / "in [1]"  # a pattern to Spark, which would read its N files N times
    (folder / "deeper").mkdir(parents=True)
    write(folder / "a.csv", "user,item,rating", "u1,i1,1")
    write(folder / "deeper" / "b.csv", "rating,item,user", "2,i2,u2")  # another order of columns
    with gzip.open(folder / "c.csv.gz", "wt") as packed:
        packed.write("\ufeffuser,item,rating\r\nu3,i3,3\r\n")
    (folder / "_SUCCESS").touch()
    write(folder / ".hidden.csv", "nonsense")
    (folder / "nothing.csv").touch()
    ingest = Ingest()
    raw = read_sources(spark, ingest, [str(folder), str(folder / "a.csv")])  # a.csv is named twice, and read once
    found = [row for rows in raw for row in check_rows(rows, ingest, ("string", "string"), NOW).collect()]
    assert sorted((row.user_id, row.item_id, row.value) for row in found) == [
        ("u1", "i1", 1.0),
        ("u2", "i2", 2.0),
        ("u3", "i3", 3.0),
    ]


def test_without_a_header_the_order_is_user_item_value_time(spark, tmp_path):
    ingest = Ingest(header=False, delimiter="\t", format="csv")
    path = write(tmp_path / "u.data", "196\t242\t3\t881250949", "186\t302\t4\t891717742")
    assert events(spark, path, ingest) == [
        ("196", "242", "interaction", 3.0, "1997-12-04 15:55:49"),
        ("186", "302", "interaction", 4.0, "1998-04-04 19:22:22"),
    ]


@pytest.mark.parametrize("name", ["a [1].csv", "b{x,y}.csv", "c*.csv", "d%20e.csv", "é ü.csv", "it's `quoted`.csv"])
def test_a_file_name_is_no_pattern(spark, tmp_path, name):
    assert len(events(spark, write(tmp_path / name, "user,item", "u,i"))) == 1


def _columns(spark, path, sql):
    spark.sql(f"SELECT {sql}").write.parquet(str(path))


@pytest.mark.parametrize(
    ("make", "ingest", "parts"),
    [
        (lambda spark, path: None, Ingest(), ["no file or folder is at", "input"]),
        (lambda spark, path: path.mkdir(), Ingest(), ["input", "holds no files"]),
        (lambda spark, path: write(path, "user,item"), Ingest(), ["format of", "input", "ingest.format"]),
        (lambda spark, path: path.touch(), Ingest(format="csv"), ["input", "is empty"]),
        (lambda spark, path: write(path, "", "  "), Ingest(format="csv"), ["input", "has no lines"]),
        (lambda spark, path: write(path, "user,rating"), Ingest(format="csv"), ["no item column", "'user', 'rating'"]),
        (lambda spark, path: write(path, "user,item,Item"), Ingest(format="csv"), ["more than one column 'item'"]),
        (lambda spark, path: write(path, "user,item"), Ingest(format="parquet"), ["cannot be read as parquet"]),
        (lambda spark, path: write(path, "user,item"), Ingest(format="json"), ["no user column", "columns are none"]),
        (lambda spark, path: write(path, "user,item"), Ingest(format="delta"), ["is a file", "ingest.format"]),
        (
            lambda spark, path: spark.range(1).write.format("delta").save(str(path / "table")),
            Ingest(),
            ["input holds the Delta table table", "name the table itself"],
        ),
        (lambda spark, path: path.mkdir(), Ingest(format="delta"), ["no Delta table", "ingest.format"]),
        (
            lambda spark, path: _columns(spark, path, "1.5D AS user, 'i' AS item"),
            Ingest(format="parquet"),
            ["'user' is double", "64-bit integers", "ingest.user_column"],
        ),
        (
            lambda spark, path: _columns(spark, path, "'u' AS user, 'i' AS item, array(1) AS rating"),
            Ingest(format="parquet"),
            ["'rating' is array<int>", "a number", "ingest.value_column"],
        ),
    ],
)
def test_input_that_cannot_be_used_is_refused_by_name(spark, tmp_path, make, ingest, parts):
    path = tmp_path / "input"
    make(spark, path)
    with pytest.raises(InputError) as refusal:
        read_sources(spark, ingest, [str(path)])
    for part in parts:
        assert part in str(refusal.value)


@pytest.mark.parametrize("path", ["", "nothing://here", "/no/such/../place.csv", "/no/such/*.csv"])
def test_a_path_that_leads_nowhere_is_refused(spark, path):
    with pytest.raises(InputError, match=r"input|no file or folder"):
        read_sources(spark, Ingest(), [path])


def test_decimals_with_a_fraction_are_no_ids(spark, tmp_path):
    row = [(Decimal("1.50"), "i")]
    spark.createDataFrame(row, "user decimal(10,2), item string").write.parquet(str(tmp_path / "d.parquet"))
    with pytest.raises(InputError, match=r"'user' is decimal\(10,2\)"):
        read_sources(spark, Ingest(), [str(tmp_path / "d.parquet")])
