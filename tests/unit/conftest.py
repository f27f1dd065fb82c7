"""Tables written by delta-rs, in the types that the contracts give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from lakefactor import contracts
from lakefactor.config import Tables
from lakefactor.contracts import IdType
from lakefactor.query import Reader

_ARROW = {
    "STRING": pa.string(),
    "BINARY": pa.binary(),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
    "INT": pa.int32(),
    "BIGINT": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "ARRAY<FLOAT>": pa.list_(pa.float32()),
    "ARRAY<DOUBLE>": pa.list_(pa.float64()),
    "MAP<STRING,BIGINT>": pa.map_(pa.string(), pa.int64()),
    "MAP<STRING,DOUBLE>": pa.map_(pa.string(), pa.float64()),
    "MAP<STRING,STRING>": pa.map_(pa.string(), pa.string()),
}
_FILL = {
    "STRING": "x",
    "BINARY": bytes(16),
    "TIMESTAMP": datetime(2026, 11, 20, 8, tzinfo=timezone.utc),
    "INT": 0,
    "BIGINT": 0,
    "FLOAT": 0.0,
    "DOUBLE": 0.0,
    "ARRAY<FLOAT>": [0.0],
    "ARRAY<DOUBLE>": [0.0],
    "MAP<STRING,BIGINT>": [],
    "MAP<STRING,DOUBLE>": [],
    "MAP<STRING,STRING>": [],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folder of the tables; its name has what a path may have."""
    return tmp_path / "läke house's"


@pytest.fixture
def write(root: Path) -> Callable[..., None]:
    """Append rows to a table of `root`; columns that a row leaves out get a value that no test looks at."""

    def write_rows(table: str, rows: Sequence[dict[str, Any]], ids: IdType = "string") -> None:
        contract = contracts.load(table)
        types = contract.column_types(ids, ids)
        nullable = {column.name for column in contract.columns if column.nullable}
        filled = [
            {name: row.get(name, None if name in nullable else _FILL[kind]) for name, kind in types.items()}
            for row in rows
        ]
        schema = pa.schema([(name, _ARROW[kind]) for name, kind in types.items()])
        write_deltalake(str(root / table), pa.Table.from_pylist(filled, schema=schema), mode="append")

    return write_rows


@pytest.fixture
def reader(root: Path) -> Reader:
    return Reader(Tables(root=str(root)))
