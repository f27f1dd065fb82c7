"""Fold: the stream's ``factor_updates`` into the factor tables, so that readers have few of them to look through.

Three commits: users merged, items merged, updates deleted. Rows are absolute and guarded by batch_id, and what is
deleted stands in the factor tables by then, so readers get the same answer before, between and after the commits, and
a fold that was cut off is done again from the beginning.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakefactor.contracts import literal
from lakefactor.pipelines.models import readable_versions
from lakefactor.spark.live_factors import UPDATES, newest
from lakefactor.spark.tables import Tables
from lakefactor.types import SIDES


class FoldResult(BaseModel):
    """What a fold did.

    Attributes
    ----------
    model_version : str
    batch_id : int or None
        Newest micro-batch that was folded; None: the version has no updates.
    users, items : int
        Rows of the factor tables that were inserted or replaced.
    kept : int
        Rows that stay in ``factor_updates`` for their optimizer's state.
    """

    model_config = ConfigDict(frozen=True)

    model_version: str
    batch_id: int | None = None
    users: int = 0
    items: int = 0
    kept: int = 0


def fold(tables: Tables, model_version: str) -> FoldResult:
    """Write the newest update of each user and item into the factor tables, then delete the updates.

    Updates that a micro-batch appends meanwhile stay. Of each id that has an optimizer's state the newest such row
    stays too: readers pass it over, since the factor table's row is as new. Updates of versions that nobody can read
    any more are deleted: neither live, nor the one to roll back to, nor the newest.

    Raises
    ------
    TableError
        There are no factor tables.
    """
    if not tables.exists(UPDATES):
        return FoldResult(model_version=model_version)
    updates = tables.read(UPDATES, tables.version(UPDATES))
    of_version = updates.where(F.col("model_version") == model_version)
    last = of_version.agg(F.max("batch_id")).collect()[0][0]
    written = dict.fromkeys(SIDES, 0)
    for side in SIDES if last is not None else ():
        table, key = f"{side}_factors", f"{side}_id"
        columns = tables.read(table).columns
        rows = newest(of_version.where(F.col("side") == side), key, *(name for name in columns if name != key))
        written[side] = tables.merge_newer(table, rows, model_version, key)
    kept = _delete_folded(tables, of_version, model_version, last)
    return FoldResult(
        model_version=model_version, batch_id=last, users=written["user"], items=written["item"], kept=kept
    )


def _delete_folded(tables: Tables, of_version: DataFrame, model_version: str, last: int | None) -> int:
    """Delete what was folded, and what nobody can read, in one commit; return how many rows stay for their state."""
    columns = of_version.columns
    with_state = of_version.where("optimizer_state IS NOT NULL")
    users, items = (
        newest(with_state.where(F.col("side") == side), f"{side}_id", *(c for c in columns if c != f"{side}_id"))
        for side in SIDES
    )
    stay = users.unionByName(items)
    readable = ", ".join(map(literal, sorted({model_version, *readable_versions(tables)})))
    predicate = f"model_version NOT IN ({readable})"
    if last is not None:
        predicate += f" OR (model_version = {literal(model_version)} AND batch_id <= {last})"
    tables.replace_where(UPDATES, stay, predicate)
    return stay.count()
