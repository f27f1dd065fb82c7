"""Ingest: files into `events`, refused rows into `rejects`, and the events' `interactions`.

Every row read is an event, a duplicate of one, or a reject; nothing is lost and nothing counted twice. All writes
insert what is not there yet, so a run that was killed is simply run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from functools import reduce

from pydantic import BaseModel, ConfigDict
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor import config as settings
from lakefactor.config import Config
from lakefactor.contracts import IdType
from lakefactor.errors import ConfigError
from lakefactor.pipelines import interactions
from lakefactor.pipelines.interactions import InteractionsResult
from lakefactor.spark.files import refused
from lakefactor.spark.identity import count_identical, identified_events, identified_rejects
from lakefactor.spark.sources import RawRows, read_sources, source_names
from lakefactor.spark.tables import Tables
from lakefactor.spark.validation import check_rows
from lakefactor.types import SIDES, Side


class IngestResult(BaseModel):
    """What became of the rows: ``read = accepted + duplicates + rejected``.

    Attributes
    ----------
    read : int
        Rows of the input, blank lines left out.
    accepted : int
        New events.
    duplicates : int
        Rows that repeat another row of the input, or an event that was there before.
    rejected : int
        Refused rows, by `reasons`; they are in the table `rejects`.
    interactions : InteractionsResult
    """

    model_config = ConfigDict(frozen=True)

    read: int
    accepted: int
    duplicates: int
    rejected: int
    reasons: dict[str, int]
    interactions: InteractionsResult

    def summary(self) -> str:
        """Return the counts as a sentence for people."""
        if self.read == 0:
            return "no rows: the input has column names, but nothing below them"
        why = ", ".join(f"{reason}: {count:,}" for reason, count in self.reasons.items())
        return (
            f"{self.read:,} rows read: {self.accepted:,} events accepted, {self.duplicates:,} known already, "
            f"{self.rejected:,} rejected" + (f" ({why})" if why else "")
        )


def run(spark: SparkSession, config: Config, paths: Sequence[str]) -> IngestResult:
    """Read files into `events` and `rejects`, and bring `interactions` up to date.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        ``ingest``, ``tables``; ``interactions`` and ``model`` for the interactions.
    paths : sequence of str
        Files, folders or Delta tables.

    Raises
    ------
    InputError
        The input is not there, is empty, or its columns are not understood.
    TableError
        A table is there but not as its contract says.
    ConfigError
        The configured type of ids is not the one that `events` has.
    """
    now = datetime.now(timezone.utc)
    tables = Tables(spark, config.tables)
    raw = read_sources(spark, config.ingest, paths)
    id_types = _id_types(tables, config.tables, raw)
    checked = (check_rows(rows, config.ingest, id_types, now) for rows in raw)
    counted = count_identical(reduce(DataFrame.unionByName, checked)).persist()
    try:
        with refused("the input cannot be read to its end", condition="FAILED_READ_FILE"):
            found = (
                counted.groupBy("reason").agg(F.sum("copies").alias("rows")).orderBy(F.desc("rows"), "reason").collect()
            )
        read = sum(row["rows"] for row in found)
        reasons = {row["reason"]: row["rows"] for row in found if row["reason"] is not None}
        sources = source_names(spark, raw)
        tables.ensure("rejects")
        tables.ensure("events", *id_types)
        if reasons:
            tables.merge_new("rejects", identified_rejects(counted, sources, now), ["reject_id"])
        accepted = tables.merge_new("events", identified_events(counted, sources, now), ["event_id"])
    finally:
        counted.unpersist()
    rejected = sum(reasons.values())
    return IngestResult(
        read=read,
        accepted=accepted,
        duplicates=read - accepted - rejected,
        rejected=rejected,
        reasons=reasons,
        interactions=interactions.run(spark, config),
    )


def _id_types(tables: Tables, config: settings.Tables, raw: Sequence[RawRows]) -> tuple[IdType, IdType]:
    """Decide the types of ids: as `events` has them, else as configured, else as the input has them."""
    existing = dict(zip(SIDES, tables.id_types("events"), strict=True)) if tables.exists("events") else {}

    def decide(side: Side) -> IdType:
        configured = config.user_id_type if side == "user" else config.item_id_type
        if side not in existing:
            observed: IdType = "long" if all(rows.integral_ids[side] for rows in raw) else "string"
            return observed if configured == "auto" else configured
        if configured not in ("auto", existing[side]):
            raise ConfigError(
                f"tables.{side}_id_type is {configured}, but {side}_id of table events at "
                f"{tables.path_or_name('events')} is {existing[side]}; set it to auto, or use another tables.root"
            )
        return existing[side]

    return decide("user"), decide("item")
