"""Exposures of A/B tests: an application's files or tables into `exposures`, what cannot be used into `rejects`."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.errors import InputError
from lakefactor.spark.suppression import load_suppression
from lakefactor.spark.tables import Tables

COLUMNS = ("user_id", "variant", "exposed_at")
_FORMATS = {"csv": "csv", "json": "json", "jsonl": "json", "parquet": "parquet"}


def take_in(spark: SparkSession, config: Config, experiment: str, variants: Sequence[str], path: str) -> int:
    """Add the first exposure of each user who has none yet; the same file again changes nothing.

    Parameters
    ----------
    spark : SparkSession
    config : Config
    experiment : str
    variants : sequence of str
        Those that there are.
    path : str
        A file, by its ending CSV, JSON lines or Parquet, or a Delta table.

    Returns
    -------
    int
        Rows that are not exposures.

    Raises
    ------
    InputError
        It cannot be read, or lacks a column.
    """
    raw, tables = _read(spark, path), Tables(spark, config.tables)
    id_type = "bigint" if tables.id_types("exposures")[0] == "long" else "string"
    rows = raw.select(
        F.lit(experiment).alias("experiment"),
        F.col("user_id").cast("string").try_cast(id_type).alias("user_id"),
        "variant",
        F.col("exposed_at").cast("string").try_cast("timestamp").alias("exposed_at"),
        F.to_json(F.struct(*COLUMNS)).alias("content"),
    )
    reason = (
        F.when(
            F.coalesce(F.col("user_id").cast("string"), F.lit("")) == "", F.lit("no user id, or not one of the table")
        )
        .when(~F.coalesce(F.col("variant").isin(*variants), F.lit(False)), F.lit("no variant of the experiment"))
        .when(F.col("exposed_at").isNull(), F.lit("no time"))
    )
    suppression = load_suppression(spark, config)
    judged = suppression.refuse(rows.withColumn("reason", reason), config.ingest.delimiter).persist()
    try:
        refused = judged.where("reason is not null").select(
            F.unhex(F.sha2(F.concat_ws("\n", F.lit(experiment), F.lit(path), "reason", "content"), 256)).alias(
                "reject_id"
            ),
            F.lit(path).alias("source"),
            "reason",
            "content",
            F.current_timestamp().alias("rejected_at"),
        )
        tables.ensure("rejects")
        tables.merge_new("rejects", refused.dropDuplicates(["reject_id"]), ["reject_id"])
        first = (
            judged.where("reason is null")
            .groupBy("experiment", "user_id")
            .agg(
                F.min_by("variant", F.struct("exposed_at", "variant")).alias("variant"),
                F.min("exposed_at").alias("exposed_at"),
            )
        )
        tables.merge_new("exposures", first, ["experiment", "user_id"])
        return judged.where("reason is not null").count()
    finally:
        judged.unpersist()


def _read(spark: SparkSession, path: str) -> DataFrame:
    kind = _FORMATS.get(path.rstrip("/").rpartition(".")[2].lower(), "delta")
    reader = spark.read.format(kind)
    if kind == "csv":
        reader = reader.option("header", True)
    try:
        found = reader.load(path)
    except AnalysisException as error:
        raise InputError(f"exposures cannot be read from {path}: {str(error).splitlines()[0]}") from error
    if missing := [name for name in COLUMNS if name not in found.columns]:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}; exposures have {', '.join(COLUMNS)}")
    return found
