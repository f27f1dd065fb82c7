"""Explain: why each recommendation is there, as rows of `explanations`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.contracts import literal
from lakefactor.errors import TableError
from lakefactor.pipelines.models import newest, wanted_version
from lakefactor.spark.catalogue import collect_catalogue
from lakefactor.spark.explaining import explained
from lakefactor.spark.live_factors import read_factors
from lakefactor.spark.tables import Tables


class ExplainResult(BaseModel):
    """What was written for one model version."""

    model_config = ConfigDict(frozen=True)

    model_version: str
    users: int
    explanations: int


def run(spark: SparkSession, config: Config, model_version: str | None = None) -> ExplainResult:
    """Explain the lists of a model version (default: the live one); its old explanations are replaced.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        ``explain`` and ``tables``.
    model_version : str or None

    Raises
    ------
    TableError
        Nothing is published and no version was named, or the version has no lists yet.
    ConfigError
        The model's users are no solution of an equation (`Explainer`).

    Notes
    -----
    A score is explained by the user's rows of `interactions`, solved against the items as they are now: what a stream
    has taught a user beyond `interactions` is in the list, but not in its reasons, until `interactions` is made again.
    """
    tables = Tables(spark, config.tables)
    version = wanted_version(tables, model_version)
    record = newest(tables, version)
    of_version = F.col("model_version") == version
    lists = tables.read("recommendations").where(of_version)
    if lists.isEmpty():
        raise TableError(
            f"table recommendations has no rows of model version {version}; "
            f"'lakefactor recommend --model-version {version}' makes them"
        )
    pairs = tables.read("interactions").select("user_id", F.struct("item_id", "strength").alias("pair"))
    known = pairs.groupBy("user_id").agg(F.collect_list("pair").alias("pairs"))
    users = (
        lists.groupBy("user_id")
        .agg(F.collect_list("item_id").alias("items"))
        .join(known, "user_id")
        .select("user_id", "items", F.col("pairs.item_id").alias("known"), F.col("pairs.strength").alias("strengths"))
    )
    catalogue = collect_catalogue(read_factors(tables, "item", version))
    rows = explained(users, catalogue, record.config.model, record.mean, record.n_users, config.explain.reasons)
    tables.ensure("explanations", tables.id_types("user_factors")[0], tables.id_types("item_factors")[1])
    stamped = rows.select(
        F.lit(version).alias("model_version"), *rows.columns, F.current_timestamp().alias("created_at")
    )
    tables.replace_where("explanations", stamped, f"model_version = {literal(version)}")
    written = tables.read("explanations").where(of_version)
    return ExplainResult(
        model_version=version, users=written.select("user_id").distinct().count(), explanations=written.count()
    )
