from __future__ import annotations

import json
from datetime import datetime, timezone
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from lakefactor.query.render import plain_rows, text_table


def test_float32_has_the_shortest_digits_that_name_it() -> None:
    values = np.array([0.1, 1 / 3, 16777216.0, 1e-38, -0.0], np.float32)
    table = pa.table({"score": values, "factors": pa.array([[value] for value in values], pa.list_(pa.float32()))})
    rows = plain_rows(table)
    assert [row["score"] for row in rows] == [float(str(value)) for value in values]
    assert [np.float32(row["factors"][0]) for row in rows] == list(values)
    assert rows[0] == {"score": 0.1, "factors": [0.1]}


def test_every_column_type_becomes_json() -> None:
    table = pa.table(
        {
            "time": pa.array([datetime(2026, 11, 22, 9, tzinfo=timezone.utc)], pa.timestamp("us", "UTC")),
            "key": pa.array([b"\x00\xff"]),
            "versions": pa.array([[("interactions", 3)]], pa.map_(pa.string(), pa.int64())),
            "nan": pa.array([float("nan")]),
            "float32 nan": pa.array([float("inf")], pa.float32()),
            "sum": pa.array([Decimal(2**80)], pa.decimal128(38, 0)),
            "null": pa.array([None], pa.float32()),
            "text": ["0.1"],
            "large": [2**62 + 1],
        }
    )
    row = {
        "time": "2026-11-22T09:00:00+00:00",
        "key": "00ff",
        "versions": {"interactions": 3},
        "nan": None,
        "float32 nan": None,
        "sum": 2**80,
        "null": None,
        "text": "0.1",
        "large": 2**62 + 1,
    }
    assert plain_rows(table) == [row]
    assert json.loads(json.dumps(plain_rows(table), allow_nan=False)) == [row]


@pytest.mark.parametrize(("text", "shown"), [("[bold]x[/bold]", "[bold]x[/bold]"), ("\x1b[31m\n", "\\x1b[31m\\n")])
def test_ids_have_no_power_over_the_terminal(text: str, shown: str) -> None:
    console = Console(width=200, force_terminal=False)
    with console.capture() as capture:
        console.print(text_table([{"item_id": text}], f"user {text}"))
    assert shown in capture.get()
    assert "\x1b" not in capture.get()
