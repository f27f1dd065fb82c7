"""Factor tables and the stream's ``factor_updates`` read as one, without Spark.

Of one user or item the row with the largest batch_id holds. The updates are opened before the factor table: a fold
writes rows into the factor table first and deletes them from the updates afterwards, so none is missed.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from lakefactor.query.lake import Lake
from lakefactor.types import Side

UPDATES = "factor_updates"

LIVE_VIEWS: dict[str, Side] = {"live_user_factors": "user", "live_item_factors": "item"}
"""Names in SQL of the live version's factors, by side."""


def live_rows(lake: Lake, side: Side, wanted: str | int, version: str) -> pa.Table:
    """Return the row of one user or item that holds, in the columns of its factor table; no row: it has none."""
    columns = _columns(side)
    match = {"model_version": version, f"{side}_id": wanted}
    rows = []
    if lake.exists(UPDATES):
        rows.append(lake.rows(UPDATES, columns, match | {"side": side}))
    rows.append(lake.rows(f"{side}_factors", columns, match))
    return pa.concat_tables(rows, promote_options="default").sort_by([("batch_id", "descending")]).slice(0, 1)


def live_side(lake: Lake, side: Side, version: str) -> pa.Table:
    """Return the rows of all users or items that hold, in the columns of the factor table, ascending by id."""
    columns, match = _columns(side), {"model_version": version}
    updates = [lake.rows(UPDATES, columns, match | {"side": side})] if lake.exists(UPDATES) else []
    return newest_rows([*updates, lake.rows(f"{side}_factors", columns, match)], f"{side}_id")


def newest_rows(parts: list[pa.Table], key: str) -> pa.Table:
    """Return of each id the row with the largest batch_id, ascending by id, in one chunk."""
    rows = pa.concat_tables(parts, promote_options="default").combine_chunks()
    order = pc.sort_indices(rows, [(key, "ascending"), ("batch_id", "descending")])
    ids = rows[key].combine_chunks().take(order)
    next_id = pc.not_equal(ids[1:], ids[:-1])
    return rows.take(pa.concat_arrays([order[:1], order[1:].filter(next_id)]))


def live_view(lake: Lake, name: str, version: str) -> str:
    """Return the SELECT behind the view `name`, for one model version."""
    side = LIVE_VIEWS[name]
    columns, of_version = ", ".join(_columns(side)), f"model_version = '{version.replace(chr(39), chr(39) * 2)}'"
    rows = f"SELECT {columns} FROM {side}_factors WHERE {of_version}"
    if not lake.exists(UPDATES):
        return rows
    return f"""
        SELECT {columns} FROM (
            SELECT {columns} FROM {UPDATES} WHERE {of_version} AND side = '{side}' UNION ALL {rows}
        ) QUALIFY row_number() OVER (PARTITION BY {side}_id ORDER BY batch_id DESC) = 1
    """


def _columns(side: Side) -> tuple[str, ...]:
    return ("model_version", f"{side}_id", "factors", "bias", "n_entries", "updated_at", "batch_id")
