"""Recommend: the live model's top-N items for users, and the most similar items of each item."""

from __future__ import annotations

from datetime import datetime, timezone

import pyarrow as pa
from pydantic import BaseModel, ConfigDict
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.contracts import literal
from lakefactor.errors import TableError, UnknownIdError
from lakefactor.factorization.catalogue import Catalogue
from lakefactor.pipelines.models import newest, wanted_version
from lakefactor.pipelines.refresh import refresh
from lakefactor.spark.catalogue import collect_catalogue, with_categories
from lakefactor.spark.live_factors import read_factors
from lakefactor.spark.scoring import similar_items, top_items
from lakefactor.spark.tables import Tables
from lakefactor.types import SIDES, Side

SLACK_SECONDS = 300
"""Factors that are written at this moment may bear a time before that of the list which does not know them yet."""


class RecommendResult(BaseModel):
    """What was written for one model version."""

    model_config = ConfigDict(frozen=True)

    model_version: str
    users: int
    recommendations: int
    similar_items: int


def run(
    spark: SparkSession, config: Config, model_version: str | None = None, changed: bool = False
) -> RecommendResult:
    """Write ``recommendations`` and ``similar_items`` of a model version (default: the live one).

    Rows of the same users and version are replaced, so running it again changes nothing; rows of other versions and
    other users stay.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        ``recommend`` and ``tables``.
    model_version : str or None
    changed : bool
        Only for users whose factors are newer than their list, or who have none, and for items likewise. What the
        others would gain by items that have changed since is left to the next whole run.

    Raises
    ------
    TableError
        Nothing is published and no version was named.
    UnknownIdError
        A configured user or item is not in the model.
    """
    tables = Tables(spark, config.tables)
    version = wanted_version(tables, model_version)
    if changed:
        return _refreshed(spark, config, tables, version)
    began = datetime.now(timezone.utc)
    record = newest(tables, version)
    item_factors = read_factors(tables, "item", version)
    user_factors = read_factors(tables, "user", version)
    users = _wanted_users(user_factors, config.recommend.users, version)
    catalogue = with_categories(tables, collect_catalogue(item_factors), config.recommend)
    _refuse_unknown_items(catalogue, config)
    seen = tables.read("interactions").select("user_id", "item_id") if config.recommend.exclude_seen else None
    item_type = dict(item_factors.dtypes)["item_id"]
    id_types = (tables.id_types("user_factors")[0], tables.id_types("item_factors")[1])

    tables.ensure("recommendations", *id_types)
    top = top_items(users, seen, catalogue, record.mean, config.recommend)
    _replace(tables, "recommendations", top, version, began, config.recommend.users)
    if config.recommend.similar_n:
        tables.ensure("similar_items", *id_types)
        similar = similar_items(spark, catalogue, config.recommend.similar_n, item_type)
        _replace(tables, "similar_items", similar, version, began)
    return RecommendResult(model_version=version, users=users.count(), **_counts(tables, version))


def _refreshed(spark: SparkSession, config: Config, tables: Tables, version: str) -> RecommendResult:
    """Make the lists of users and items whose factors are newer than their list."""
    ids = {side: _changed(tables, side, version) for side in SIDES}
    done = refresh(spark, config, version, ids["user"], ids["item"])
    if done.missing:
        raise TableError(
            f"table {done.missing[0]} does not exist, so there are no lists to bring up to date; "
            "run 'lakefactor recommend' without --changed"
        )
    return RecommendResult(model_version=version, users=done.users, **_counts(tables, version))


def _changed(tables: Tables, side: Side, version: str) -> pa.Array:
    """Return the ids of one side whose factors are newer than their list, or that have none."""
    factors, key = read_factors(tables, side, version), f"{side}_id"
    table = "recommendations" if side == "user" else "similar_items"
    if tables.exists(table):
        lists = tables.read(table).where(F.col("model_version") == version)
        listed = lists.groupBy(key).agg(F.max("created_at").alias("created_at"))
        newer = F.col("updated_at") > F.col("created_at") - F.expr(f"INTERVAL {SLACK_SECONDS} SECONDS")
        factors = factors.join(listed, key, "left").where(F.col("created_at").isNull() | newer)
    return factors.select(key).toArrow()[key].combine_chunks()


def _counts(tables: Tables, version: str) -> dict[str, int]:
    of_version = F.col("model_version") == version
    return {
        table: tables.read(table).where(of_version).count() if tables.exists(table) else 0
        for table in ("recommendations", "similar_items")
    }


def _wanted_users(user_factors: DataFrame, wanted: tuple[str, ...], version: str) -> DataFrame:
    if not wanted:
        return user_factors
    users = user_factors.where(F.col("user_id").cast("string").isin(*wanted))
    found = {str(row.user_id) for row in users.select("user_id").collect()}
    if missing := [user for user in wanted if user not in found]:
        raise UnknownIdError(
            f"recommend.users: {len(missing)} users are not in model version {version}, the first is {missing[0]!r}; "
            "a user is known once a model was trained on the user's interactions"
        )
    return users


def _refuse_unknown_items(catalogue: Catalogue, config: Config) -> None:
    for key in ("allow_items", "deny_items"):
        named = getattr(config.recommend, key)
        known = set(catalogue.ids.filter(pa.array(catalogue.mask(named))).cast(pa.string()).to_pylist())
        if missing := [item for item in named if item not in known]:
            raise UnknownIdError(
                f"recommend.{key}: {len(missing)} items are not in the model, the first is {missing[0]!r}; "
                "remove them from the list"
            )


def _replace(
    tables: Tables, table: str, rows: DataFrame, version: str, began: datetime, users: tuple[str, ...] = ()
) -> None:
    stamped = rows.select(F.lit(version).alias("model_version"), *rows.columns, F.lit(began).alias("created_at"))
    predicate = f"model_version = {literal(version)}"
    if users:
        predicate += f" AND cast(user_id AS STRING) IN ({', '.join(map(literal, users))})"
    tables.replace_where(table, stamped, predicate)
