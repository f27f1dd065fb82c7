"""Publish: hold a model version against the gate, and make it the live one; rollback is the same flip.

The flip is one commit on one row of ``live_model``; every decision, a refusal too, is a row of ``decisions``.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timezone

from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config, Publish
from lakefactor.errors import GateRefusedError, TableError
from lakefactor.pipelines.compare import LOWER_IS_BETTER
from lakefactor.pipelines.evaluate import MEAN_FOLD, metric_name
from lakefactor.pipelines.models import LIVE_NAME, live_version, newest
from lakefactor.query.lake import Where
from lakefactor.spark.measuring import MODEL, POPULARITY
from lakefactor.spark.tables import Tables
from lakefactor.spark.tally import ALL


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


@dataclass(frozen=True)
class Verdict:
    """What the gate says, and the figures that it saw."""

    passed: bool
    reason: str
    value: float | None = None
    live_value: float | None = None
    popularity_value: float | None = None


def run(spark: SparkSession, config: Config, model_version: str | None = None, rollback: bool = False) -> PublishResult:
    """Publish a model version (default: the newest), or go back to the one before the live one.

    Parameters
    ----------
    spark : SparkSession
    config : Config
    model_version : str or None
    rollback : bool
        Without a version: publish the version that the live one replaced. A rollback does not ask the gate.

    Raises
    ------
    GateRefusedError
        The gate refused; the live model is unchanged and the refusal is recorded.
    TableError
        There is no such version, or nothing to go back to.
    """
    tables = Tables(spark, config.tables)
    for table in ("live_model", "decisions"):
        tables.ensure(table)
    live = live_version(tables)
    if rollback and model_version is None:
        model_version = _replaced_by(tables, live)
    candidate = newest(tables, model_version).model_version
    if candidate == live:
        return PublishResult(
            model_version=candidate, previous_version=live, action="keep", reason="it is live already",
            metric=config.publish.metric,
        )  # fmt: skip
    verdict = Verdict(True, "rollback asked for") if rollback else judge(tables, config.publish, candidate, live)
    action = "refuse" if not verdict.passed else "rollback" if rollback else "publish"
    decision_id = _record(spark, tables, candidate, action, verdict, config.publish.metric)
    if not verdict.passed:
        raise GateRefusedError(
            f"model version {candidate} was not published: {verdict.reason}; live is {live or 'none'}"
        )
    _flip(spark, tables, candidate, live, decision_id)
    return PublishResult(
        model_version=candidate,
        previous_version=live,
        action=action,
        reason=verdict.reason,
        metric=config.publish.metric,
        value=verdict.value,
        live_value=verdict.live_value,
        popularity_value=verdict.popularity_value,
    )


def judge(tables: Tables, gate: Publish, candidate: str, live: str | None) -> Verdict:
    """Compare a candidate's newest evaluation with popularity and with the live model's.

    The live model counts only where it was evaluated by the same split.
    """
    figures = _figures(tables, gate.metric, candidate)
    if MODEL not in figures:
        reason = f"it has no evaluation with {gate.metric}; run 'lakefactor evaluate --model-version {candidate}'"
        return Verdict(
            not gate.require_evaluation, reason if gate.require_evaluation else "not evaluated, not required"
        )
    split, value = figures[MODEL]
    popularity = figures.get(POPULARITY, (split, None))[1]
    live_split, live_value = _figures(tables, gate.metric, live).get(MODEL, (None, None)) if live else (None, None)
    if live_split != split:
        live_value = None
    sign = -1 if gate.metric in LOWER_IS_BETTER else 1
    seen = {"value": value, "live_value": live_value, "popularity_value": popularity}
    if gate.beat_popularity and popularity is not None and sign * value <= sign * popularity:
        return Verdict(False, f"{gate.metric} {value:.4f} does not beat popularity's {popularity:.4f}", **seen)
    if live_value is not None and sign * (live_value - value) > gate.max_relative_loss * abs(live_value):
        return Verdict(
            False,
            f"{gate.metric} {value:.4f} is worse than the live model's {live_value:.4f} "
            f"by more than {gate.max_relative_loss:.0%}",
            **seen,
        )
    return Verdict(True, f"{gate.metric} {value:.4f} passed the gate", **seen)


def _figures(tables: Tables, metric: str, model_version: str) -> dict[str, tuple[str, float]]:
    """Return {recommender: (split, value)} of a version's newest evaluation."""
    if not tables.exists("evaluations"):
        return {}
    columns = ("evaluated_at", "evaluation_id", "recommender", "split", "metric", "k", "value")
    where: Where = {"model_version": model_version, "fold": MEAN_FOLD, "segment": ALL}
    found = tables.rows("evaluations", columns, where)
    found = found.sort_by([("evaluated_at", "ascending"), ("evaluation_id", "ascending")])
    rows = [row for row in found.to_pylist() if metric_name(row["metric"], row["k"]) == metric]
    return {row["recommender"]: (row["split"], row["value"]) for row in rows}


def _replaced_by(tables: Tables, live: str | None) -> str:
    row = tables.read("live_model").where(F.col("name") == LIVE_NAME).first() if live else None
    if row is None or row.previous_version is None:
        raise TableError(
            f"there is no version to go back to: the live model is {live or 'none'} and replaced no other; "
            "name one with --model-version"
        )
    return row.previous_version


def _record(spark: SparkSession, tables: Tables, candidate: str, action: str, verdict: Verdict, metric: str) -> str:
    decision_id = secrets.token_hex(8)
    row = {
        "decision_id": decision_id,
        "model_version": candidate,
        "decided_at": datetime.now(timezone.utc),
        "action": action,
        "reason": verdict.reason,
        "metric": metric,
        "value": verdict.value,
        "live_value": verdict.live_value,
        "popularity_value": verdict.popularity_value,
    }
    tables.append("decisions", spark.createDataFrame([row], tables.read("decisions").schema), txn=(decision_id, 0))
    return decision_id


def _flip(spark: SparkSession, tables: Tables, candidate: str, live: str | None, decision_id: str) -> None:
    row = {
        "name": LIVE_NAME,
        "model_version": candidate,
        "previous_version": live,
        "published_at": datetime.now(timezone.utc),
        "decision_id": decision_id,
    }
    live_row = spark.createDataFrame([row], tables.read("live_model").schema)
    tables.replace_where("live_model", live_row, f"name = '{LIVE_NAME}'")
