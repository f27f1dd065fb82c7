"""Publish: hold a model version against the gate, and make it the live one; rollback is the same flip.

The flip is one commit on one row of ``live_model``; every decision, a refusal too, is a row of ``decisions``.
"""

from __future__ import annotations

from datetime import datetime, timezone

from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession

from lakefactor.config import Config
from lakefactor.errors import TableError
from lakefactor.pipelines.decisions import record
from lakefactor.pipelines.gate import Verdict, judge, refuse_unless_passed
from lakefactor.pipelines.models import live_row, live_version, newest
from lakefactor.query.reader import LIVE_NAME
from lakefactor.spark.tables import Tables


class PublishResult(BaseModel):
    """A decision that changed the live model, or (action ``keep``, and no decision) found it as wanted."""

    model_config = ConfigDict(frozen=True)

    model_version: str
    previous_version: str | None
    action: str
    reason: str
    metric: str
    value: float | None = None
    live_value: float | None = None
    popularity_value: float | None = None


def run(
    spark: SparkSession,
    config: Config,
    model_version: str | None = None,
    rollback: bool = False,
    reason: str = "rollback asked for",
) -> PublishResult:
    """Publish a model version (default: the newest), or go back to the one before the live one.

    Parameters
    ----------
    spark : SparkSession
    config : Config
    model_version : str or None
    rollback : bool
        Without a version: publish the version that the live one replaced. A rollback does not ask the gate.
    reason : str
        Of a rollback.

    Raises
    ------
    GateRefusedError
        The gate refused; the live model is unchanged and the refusal is recorded.
    TableError
        There is no such version, or nothing to go back to.
    """
    tables, metric = Tables(spark, config.tables), config.publish.metric
    tables.ensure("live_model")
    live = live_version(tables)
    if rollback and model_version is None:
        model_version = _replaced_by(tables)
    candidate = newest(tables, model_version).model_version
    if candidate == live:
        return PublishResult(
            model_version=candidate, previous_version=live, action="keep", reason="it is live already", metric=metric
        )
    verdict = Verdict(True, reason) if rollback else judge(tables, config.publish, candidate, live)
    refuse_unless_passed(tables, config.publish, candidate, live, verdict)
    action = "rollback" if rollback else "publish"
    decision_id = record(tables, verdict.decision(candidate, action, metric))
    _flip(spark, tables, candidate, live, decision_id)
    return PublishResult(
        model_version=candidate,
        previous_version=live,
        action=action,
        reason=verdict.reason,
        metric=metric,
        value=verdict.value,
        live_value=verdict.live_value,
        popularity_value=verdict.popularity_value,
    )


def _replaced_by(tables: Tables) -> str:
    """Return the version that the live one replaced."""
    live = live_row(tables)
    if live is None or live["previous_version"] is None:
        raise TableError(
            f"there is no version to go back to: the live model is {live['model_version'] if live else 'none'} and "
            "replaced no other; name one with --model-version"
        )
    return str(live["previous_version"])


def _flip(spark: SparkSession, tables: Tables, candidate: str, live: str | None, decision_id: str) -> None:
    row = {
        "name": LIVE_NAME,
        "model_version": candidate,
        "previous_version": live,
        "published_at": datetime.now(timezone.utc),
        "decision_id": decision_id,
    }
    rows = spark.createDataFrame([row], tables.read("live_model").schema)
    tables.replace_where("live_model", rows, f"name = '{LIVE_NAME}'")
