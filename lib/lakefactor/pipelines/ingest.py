"""Ingest: files into `events`, refused rows into `rejects`, and the events' `interactions`.

Every row read is an event, a duplicate of one, or a reject; nothing is lost and nothing counted twice. All writes
insert what is not there yet, so a run that was killed is simply run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession

from lakefactor.config import Config
from lakefactor.pipelines import interactions
from lakefactor.pipelines.interactions import InteractionsResult
from lakefactor.spark.judging import judge_rows
from lakefactor.spark.sources import decide_id_types, read_sources, source_names
from lakefactor.spark.suppression import load_suppression
from lakefactor.spark.tables import Tables


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
    id_types = decide_id_types(tables, config.tables, raw)
    suppression = load_suppression(spark, config)
    judged = judge_rows(raw, source_names(spark, raw), config.ingest, id_types, now, suppression)
    try:
        tables.ensure("rejects")
        tables.ensure("events", *id_types)
        if judged.reasons:
            tables.merge_new("rejects", judged.rejects, ["reject_id"])
        accepted = tables.merge_new("events", judged.events, ["event_id"])
    finally:
        judged.unpersist()
    return IngestResult(
        read=judged.read,
        accepted=accepted,
        duplicates=judged.read - accepted - judged.rejected,
        rejected=judged.rejected,
        reasons=judged.reasons,
        interactions=interactions.run(spark, config),
    )
