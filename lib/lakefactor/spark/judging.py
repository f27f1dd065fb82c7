"""Raw rows judged: each is an event, a duplicate of one, or a reject, whether a job ingests them or a stream does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakefactor.config import Ingest
from lakefactor.contracts import IdType
from lakefactor.spark.files import refused
from lakefactor.spark.identity import count_identical, identified_events, identified_rejects
from lakefactor.spark.sources import RawRows
from lakefactor.spark.suppression import NOBODY, Suppression
from lakefactor.spark.validation import check_rows


@dataclass(frozen=True)
class JudgedRows:
    """What became of rows.

    Attributes
    ----------
    events : DataFrame
        The columns of table `events`; every event once.
    rejects : DataFrame
        The columns of table `rejects`; every refused row.
    read : int
        Rows, blank lines left out.
    duplicates : int
        Rows that repeat another one of them.
    reasons : dict of str to int
        Refused rows by reason, the most frequent first.
    """

    events: DataFrame
    rejects: DataFrame
    read: int
    duplicates: int
    reasons: dict[str, int]
    counted: DataFrame

    @property
    def rejected(self) -> int:
        """Refused rows."""
        return sum(self.reasons.values())

    def unpersist(self) -> None:
        """Let go of the rows that Spark keeps for `events` and `rejects`."""
        self.counted.unpersist()


def judge_rows(
    raw: Sequence[RawRows],
    sources: DataFrame,
    ingest: Ingest,
    id_types: tuple[IdType, IdType],
    now: datetime,
    suppression: Suppression = NOBODY,
) -> JudgedRows:
    """Check rows, find what makes each itself, and count what became of them.

    Parameters
    ----------
    raw : sequence of RawRows
        At least one.
    sources : DataFrame
        ``source_hash, source`` of every source in `raw`.
    ingest : Ingest
    id_types : (str, str)
        Types of user and item ids in the table `events`.
    now : datetime
        Becomes `ingested_at` and `rejected_at`.
    suppression : Suppression, optional
        Users whose rows are refused, and leave nothing that names them.

    Raises
    ------
    InputError
        A source cannot be read to its end.
    """
    checked = reduce(DataFrame.unionByName, (check_rows(rows, ingest, id_types, now) for rows in raw))
    checked = suppression.refuse(checked, ingest.delimiter)
    counted = count_identical(checked).persist()
    try:
        with refused("the input cannot be read to its end", condition="FAILED_READ_FILE"):
            found = (
                counted.groupBy("reason")
                .agg(F.sum("copies").alias("rows"), F.sum(F.col("copies") - F.col("events")).alias("repeats"))
                .orderBy(F.desc("rows"), "reason")
                .collect()
            )
    except BaseException:
        counted.unpersist()
        raise
    return JudgedRows(
        events=identified_events(counted, sources, now),
        rejects=identified_rejects(counted, sources, now),
        read=sum(row["rows"] for row in found),
        duplicates=sum(row["repeats"] for row in found),
        reasons={row["reason"]: row["rows"] for row in found if row["reason"] is not None},
        counted=counted,
    )
