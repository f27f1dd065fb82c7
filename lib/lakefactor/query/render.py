"""Arrow tables as JSON-able rows and as tables for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lakefactor.log import printable


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows as JSON can hold them: times in ISO 8601, bytes in hexadecimal, NaN and infinity as None.

    A float32 gets the shortest digits that name it, so ``0.1`` and not ``0.10000000149011612``.

    >>> plain_rows(pa.table({"score": pa.array([0.1], pa.float32()), "item_id": ["é"]}))
    [{'score': 0.1, 'item_id': 'é'}]
    """
    columns = [_shortest(column).to_pylist(maps_as_pydicts="lossy") for column in table.columns]
    floats = [_holds_float32(field.type) for field in table.schema]
    return [
        {name: _plain(value, is_float) for name, value, is_float in zip(table.column_names, row, floats, strict=True)}
        for row in zip(*columns, strict=True)
    ]


def text_table(rows: Sequence[dict[str, Any]], title: str, columns: Sequence[str] = (), header: bool = True) -> Group:
    """Return rows as a table for people.

    Parameters
    ----------
    rows : sequence of dict
        As `plain_rows` gives them.
    title : str
    columns : sequence of str
        Which columns, in which order; empty: all.
    header : bool
        Show the columns' names.
    """
    names = list(columns) or (list(rows[0]) if rows else [])
    result = Table(show_header=header, header_style="bold")
    for name in names:
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        result.add_column(Text(printable(name)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        result.add_row(*(Text(cell(row[name])) for name in names))
    return Group(Text(printable(title), "bold"), result)


def cell(value: Any) -> str:
    """Return a value as people read it, in one line.

    >>> cell(0.123456789), cell([1.0, 0.25]), cell(True), cell(None)
    ('0.123457', '[1, 0.25]', '●', '')
    """
    match value:
        case None | False:
            return ""
        case True:
            return "●"
        case float():
            return f"{value:.6g}"
        case list():
            return "[" + ", ".join(map(cell, value)) + "]"
        case dict():
            return ", ".join(f"{cell(key)} {cell(item)}" for key, item in value.items())
    return printable(str(value)).replace("\n", "\\n")


def _holds_float32(kind: pa.DataType) -> bool:
    return pa.types.is_float32(kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind)


def _shortest(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return float32 as its shortest text, which `_plain` reads back; anything else as it is."""
    if not _holds_float32(column.type):
        return column
    return column.cast(pa.string() if pa.types.is_float32(column.type) else pa.list_(pa.string()))


def _plain(value: Any, is_float: bool) -> Any:
    match value:
        case str() if is_float:
            return _plain(float(value), False)
        case float():
            return value if math.isfinite(value) else None
        case datetime() | date():
            return value.isoformat()
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case bytes():
            return value.hex()
        case list() | tuple():
            return [_plain(item, is_float) for item in value]
        case dict():
            return {str(key): _plain(item, is_float) for key, item in value.items()}
        case None | bool() | int() | str():
            return value
    return str(value)
