"""Factor tables and the stream's ``factor_updates`` read as one.

Of one user or item the row with the largest batch_id holds, wherever it stands. The updates are always opened before
the factor table: a fold writes rows into the factor table before it deletes them from the updates, so a row that is
gone from the one is in the other, and in between it is in both and the same.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakefactor.query.live_factors import UPDATES, newest_rows
from lakefactor.spark.tables import Tables
from lakefactor.types import Side


def read_factors(tables: Tables, side: Side, model_version: str) -> DataFrame:
    """Return the factors of one side of a model version, as the stream left them.

    Parameters
    ----------
    tables : Tables
    side : {"user", "item"}
    model_version : str

    Returns
    -------
    DataFrame
        Columns and order of ``user_factors`` or ``item_factors``, one row per id. Where the version has updates, the
        rows are those of this moment, whenever they are asked for; where it has none, this is the plain table.
    """
    table, of_version = f"{side}_factors", F.col("model_version") == model_version
    updates = newest_updates(tables, side, model_version)
    if updates is None:
        return tables.read(table).where(of_version)
    trained = tables.read(table, tables.version(table)).where(of_version)
    key = f"{side}_id"
    new = updates.select(F.col(key).alias("_id"), F.struct(*updates.columns).alias("_new"))
    newer = F.col("_new.batch_id") > F.col("batch_id")
    known = trained.join(new, F.col(key) == F.col("_id"), "left").select(
        *(F.when(newer, F.col(f"_new.{name}")).otherwise(F.col(name)).alias(name) for name in trained.columns)
    )
    return known.unionByName(updates.join(trained.select(key), key, "left_anti").select(*trained.columns))


def collect_factors(tables: Tables, side: Side, model_version: str, batch_below: int) -> pa.Table:
    """Return the factors of one side of a model version as they were before a micro-batch, ordered by id.

    Without a Spark job where the tables lie in a folder or an object store: a stream that starts waits for it.

    Parameters
    ----------
    tables : Tables
    side : {"user", "item"}
    model_version : str
    batch_below : int
        The micro-batch: its updates and later ones are left out; what is folded into the factor table stays.

    Returns
    -------
    pyarrow.Table
        ``user_id|item_id, factors, bias, n_entries, batch_id``, in one chunk.
    """
    key = f"{side}_id"
    columns, of_version = [key, "factors", "bias", "n_entries", "batch_id"], {"model_version": model_version}
    updates = tables.rows(UPDATES, columns, of_version | {"side": side})
    trained = tables.rows(f"{side}_factors", columns, of_version)
    updates = updates.filter(pc.less(updates["batch_id"], batch_below))
    return newest_rows([updates, trained], key)


def newest_updates(tables: Tables, side: Side, model_version: str) -> DataFrame | None:
    """Return the newest update of each id in the columns of the factor table; None where the version has none."""
    rows = _updates(tables, side, model_version)
    if rows is None or rows.isEmpty():
        return None
    key, columns = f"{side}_id", tables.read(f"{side}_factors").columns
    return newest(rows, key, *(name for name in columns if name != key)).select(*columns)


def optimizer_states(
    tables: Tables, side: Side, model_version: str, batch_below: int | None = None, rule: str | None = None
) -> DataFrame:
    """Return ``user_id|item_id, optimizer_state`` (never null): the newest state of each id that has one.

    ``batch_below`` as in `read_factors`; with ``rule`` only states that this rule left.
    """
    key = f"{side}_id"
    rows = _updates(tables, side, model_version)
    if rows is None:
        no_state = F.lit(None).cast("array<float>").alias("optimizer_state")
        return tables.read(f"{side}_factors").where("false").select(key, no_state)
    if batch_below is not None:
        rows = rows.where(F.col("batch_id") < batch_below)
    if rule is not None:
        rows = rows.where(F.col("rule") == rule)
    return newest(rows.where("optimizer_state IS NOT NULL"), key, "optimizer_state")


def _updates(tables: Tables, side: Side, model_version: str) -> DataFrame | None:
    """Return the updates of one side at this moment; None before the first stream."""
    if not tables.exists(UPDATES):
        return None
    rows = tables.read(UPDATES, tables.version(UPDATES))
    return rows.where((F.col("model_version") == model_version) & (F.col("side") == side))


def newest(rows: DataFrame, key: str, *columns: str) -> DataFrame:
    """Return `key` and `columns` of each id's row with the largest batch_id."""
    row = F.max_by(F.struct(*columns), "batch_id").alias("_newest")
    return rows.groupBy(key).agg(row).select(key, *(f"_newest.{name}" for name in columns))
