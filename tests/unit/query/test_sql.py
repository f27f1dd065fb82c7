from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from lakefactor.errors import InputError, TableError
from lakefactor.query import Reader

WriteTable = Callable[..., None]

INTERACTIONS = [
    {"user_id": "ann", "item_id": "i1", "strength": 1.0},
    {"user_id": "ann", "item_id": "i2", "strength": 2.0},
    {"user_id": "bob", "item_id": "i1", "strength": 4.0},
]


def test_tables_join_by_their_names(reader: Reader, write: WriteTable) -> None:
    write("interactions", INTERACTIONS)
    write("events", [{"event_id": bytes(16), "user_id": "bob", "item_id": "i1", "event_type": "view"}])
    query = """
        SELECT event_type, sum(strength) AS strength FROM interactions JOIN events USING (user_id) GROUP BY ALL;
    """
    assert reader.sql(query).to_pylist() == [{"event_type": "view", "strength": 4.0}]


def test_a_table_may_be_named_twice_and_in_capitals(reader: Reader, write: WriteTable) -> None:
    write("interactions", INTERACTIONS)
    query = (
        "SELECT count(*) AS pairs FROM INTERACTIONS a JOIN interactions b USING (item_id) WHERE a.user_id < b.user_id"
    )
    assert reader.sql(query).to_pylist() == [{"pairs": 1}]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("DROP TABLE interactions", "found DROP"),
        ("SELECT 1; SELECT 2", "found SELECT and SELECT"),
        ("CREATE TABLE t AS SELECT 1", "found CREATE"),
        ("SET enable_external_access = true", "found SET"),
        ("ATTACH 'x.db'", "found ATTACH"),
        ("COPY interactions TO 'x.csv'", "found COPY"),
        ("", "found none"),
        ("-- nothing", "found none"),
        ("SELEC 1", "DuckDB refused the query: Parser Error"),
        ("SELECT nothing FROM interactions", "DuckDB refused the query: Binder Error"),
        ("SELECT * FROM nowhere", "nowhere does not exist.*the tables are decisions, drift, erasures"),
        ("SELECT user_id + 1 FROM interactions", "DuckDB refused the query: "),
    ],
)
def test_what_is_not_one_select_is_refused(reader: Reader, write: WriteTable, query: str, found: str) -> None:
    write("interactions", INTERACTIONS)
    with pytest.raises(InputError, match=found):
        reader.sql(query)


@pytest.mark.parametrize("function", ["read_csv", "read_text", "read_parquet", "glob"])
def test_nothing_but_the_tables_is_read(reader: Reader, tmp_path: Path, function: str) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="Permission Error"):
        reader.sql(f"SELECT * FROM {function}('{secret}')")


def test_a_python_variable_is_no_table(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakefactor.query.sql.frame", pa.table({"a": [1]}), raising=False)
    with pytest.raises(InputError, match="frame does not exist"):
        reader.sql("SELECT * FROM frame")


def test_a_missing_table_names_the_command_that_creates_it(reader: Reader) -> None:
    with pytest.raises(TableError, match=r"table recommendations does not exist at .*'lakefactor recommend'"):
        reader.sql("SELECT * FROM recommendations")
