"""The rows of a stream's micro-batch, whatever its source."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession

from lakefactor.contracts import load
from lakefactor.spark.judging import JudgedRows

COMMIT = "_commit_version"
"""Version of `events` that an event came with."""


@dataclass(frozen=True)
class BatchRows:
    """The rows of a micro-batch.

    Attributes
    ----------
    events : DataFrame
        The columns of table `events`; every event_id once. With ``COMMIT``, where they are appended already.
    rejects : DataFrame or None
        The columns of table `rejects`; None where no row was refused.
    read : int
        Rows that arrived.
    duplicates : int
        Rows that repeat another row of the micro-batch.
    reasons : dict of str to int
        Refused rows by reason.
    appended : bool
        Whether the events are in the table `events` already.
    version : int or None
        Version of `events` that holds them and no later ones, where they are appended already.
    """

    events: DataFrame
    rejects: DataFrame | None
    read: int
    duplicates: int
    reasons: dict[str, int]
    appended: bool
    version: int | None = None
    persisted: tuple[DataFrame, ...] = ()

    @property
    def rejected(self) -> int:
        """Refused rows."""
        return sum(self.reasons.values())

    def unpersist(self) -> None:
        """Let go of what Spark keeps of the rows; `events` and `rejects` are computed anew when asked for again."""
        for frame in self.persisted:
            frame.unpersist()


def batch_rows(judged: JudgedRows) -> BatchRows:
    """Return rows that were judged in this micro-batch."""
    return BatchRows(
        judged.events,
        judged.rejects if judged.reasons else None,
        judged.read,
        judged.duplicates,
        judged.reasons,
        appended=False,
        persisted=(judged.counted,),
    )


def no_rows(spark: SparkSession) -> BatchRows:
    """Return the rows of a micro-batch that has none; the types of its ids mean nothing."""
    types = load("events").column_types()
    empty = spark.createDataFrame([], ", ".join(f"{name} {kind}" for name, kind in types.items()))
    return BatchRows(empty, None, 0, 0, {}, appended=False)
