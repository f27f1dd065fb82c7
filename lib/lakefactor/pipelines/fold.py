"""Fold: the stream's ``factor_updates`` into the factor tables, so that readers have few of them to look through.

Three commits: users merged, items merged, updates deleted. Rows are absolute and guarded by batch_id, and what is
deleted stands in the factor tables by then, so readers get the same answer before, between and after the commits, and
a fold that was cut off is done again from the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakefactor.contracts import literal
from lakefactor.pipelines.models import readable_versions
from lakefactor.spark.live_factors import UPDATES, newest
from lakefactor.spark.tables import Tables
from lakefactor.types import SIDES, Side


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


def fold(tables: Tables, model_version: str, batch_below: int | None = None) -> FoldResult:
    """Write the newest update of each user and item into the factor tables, then delete the updates.

    With `batch_below`, only those of earlier micro-batches: one that may be run again must find what was before it.

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
    ours = F.col("model_version") == model_version
    if batch_below is not None:
        ours &= F.col("batch_id") < batch_below
    found = updates.agg(
        F.max(F.when(ours, F.col("batch_id"))).alias("last"),
        F.count_if(ours & F.col("optimizer_state").isNotNull()).alias("states"),
        F.collect_set("model_version").alias("versions"),
    ).collect()[0]
    written = dict.fromkeys(SIDES, 0)
    for side in SIDES if found.last is not None else ():
        table = f"{side}_factors"
        rows = _newest(updates.where(ours), side, tables.read(table).columns)
        written[side] = tables.merge_newer(table, rows, model_version, f"{side}_id")
    retired = set(found.versions) - {model_version}
    retired -= readable_versions(tables) if retired else set()
    parts = [f"model_version = {literal(version)}" for version in sorted(retired)]
    if found.last is not None:
        parts.append(f"model_version = {literal(model_version)} AND batch_id <= {found.last}")
    with_state = updates.where(ours & F.col("optimizer_state").isNotNull())
    stay = _newest(with_state, "user", updates.columns).unionByName(_newest(with_state, "item", updates.columns))
    kept = stay.count() if found.states else 0
    if parts:
        tables.replace_where(UPDATES, stay if kept else updates.where("false"), " OR ".join(parts))
    return FoldResult(
        model_version=model_version, batch_id=found.last, users=written["user"], items=written["item"], kept=kept
    )


def _newest(updates: DataFrame, side: Side, columns: Sequence[str]) -> DataFrame:
    """Return `columns` of the newest update of each id of one side."""
    key = f"{side}_id"
    return newest(updates.where(F.col("side") == side), key, *(name for name in columns if name != key))
