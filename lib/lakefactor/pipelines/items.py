"""Items: what is known of items beside their events, from a file of theirs into `items`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from pydantic import BaseModel, ConfigDict
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.contracts import IdType
from lakefactor.errors import InputError
from lakefactor.spark.files import FileSet, find_files, refused
from lakefactor.spark.roles import USUAL_NAMES, find_column
from lakefactor.spark.tables import Tables

ROLES = {"item": USUAL_NAMES["item"], "category": "category genre department kind", "title": "title name"}
"""Names under which a column is found without being configured."""

COLUMNS = ("item_id", "category", "title")


class ItemsResult(BaseModel):
    """What became of the rows.

    Attributes
    ----------
    read : int
        Different items of the input.
    written : int
        Those that are new or have changed.
    categories : int
        Different categories of the input.
    """

    model_config = ConfigDict(frozen=True)

    read: int
    written: int
    categories: int


def run(spark: SparkSession, config: Config, paths: Sequence[str]) -> ItemsResult:
    """Read files into `items`; a known item gets its new category and title, others stay as they are.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        ``items``, ``ingest.delimiter``, ``tables``.
    paths : sequence of str
        Files, folders or Delta tables.

    Raises
    ------
    InputError
        The input is not there, has no item column or a row without an item, or says two things of one item. Nothing
        is written then.
    """
    tables = Tables(spark, config.tables)
    id_type: IdType = tables.id_types("events")[1] if tables.exists("events") else "string"
    frames = [_read(spark, config, files) for files in find_files(spark, paths, "auto")]
    rows = reduce(DataFrame.unionByName, frames).distinct().persist()
    try:
        read = _checked(rows, id_type)
        tables.ensure("items", item_id_type=id_type)
        typed = rows.withColumn("item_id", F.col("item_id").cast("bigint" if id_type == "long" else "string"))
        stamped = typed.withColumn("updated_at", F.current_timestamp())
        differs = "NOT (new.category <=> old.category AND new.title <=> old.title)"
        written = tables.merge_all("items", stamped, ["item_id"], differs)
        return ItemsResult(read=read, written=written, categories=rows.select("category").distinct().na.drop().count())
    finally:
        rows.unpersist()


def _read(spark: SparkSession, config: Config, files: FileSet) -> DataFrame:
    """Return ``item_id, category, title`` of some files, as text; what is blank is null."""
    with refused(f"input {files.place} cannot be read as {files.format}"):
        reader = spark.read.format(files.format)
        if files.format == "csv":
            reader = reader.option("header", True).option("sep", config.ingest.delimiter).option("escape", '"')
        frame = reader.load(files.place if files.format == "delta" else list(files.paths))
    found = {
        role: find_column(
            role, usual, frame.columns, getattr(config.items, f"{role}_column"), files.place, f"items.{role}_column"
        )
        for role, usual in ROLES.items()
    }
    if found["item"] is None:
        raise InputError(
            f"{files.place} has no item column; its columns are {', '.join(map(repr, frame.columns))}; "
            "set items.item_column to one of them"
        )
    return frame.select(*(_text(found[role]).alias(name) for role, name in zip(ROLES, COLUMNS, strict=True)))


def _text(column: str | None) -> Column:
    if column is None:
        return F.lit(None).cast("string")
    name = column.replace("`", "``")
    return F.nullif(F.trim(F.col(f"`{name}`").cast("string")), F.lit(""))


def _checked(rows: DataFrame, id_type: IdType) -> int:
    """Count the items; refuse rows without one, and items of which two things are said."""
    number = F.col("item_id").cast("bigint") if id_type == "long" else F.col("item_id")
    facts = rows.agg(
        F.countDistinct(number).alias("items"),
        F.count_if(number.isNull()).alias("nameless"),
        F.first(F.when(number.isNull(), F.col("item_id")), ignorenulls=True).alias("strange"),
    ).first()
    assert facts is not None
    if facts["nameless"]:
        what = (
            f"{facts['strange']!r}, which is no 64-bit integer as table events has them"
            if facts["strange"]
            else "empty"
        )
        raise InputError(f"{facts['nameless']} rows have an item id that is {what}; correct or remove them")
    twice = rows.groupBy(number.alias("item_id")).count().where("count > 1").first()
    if twice is not None:
        raise InputError(f"item {twice['item_id']!r} has several rows that differ; leave one of them")
    return int(facts["items"])
