"""What the outcomes of an A/B test say: per variant, against the control, at one look and at any number of looks."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import Any

from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from rich.table import Table

from lakefactor.config import digest
from lakefactor.metrics.experiment import Outcomes, compare, compare_any_time, p_value, sample_ratio_p_value
from lakefactor.spark.tables import Tables

METRICS = ("users_with_outcome", "outcome_per_user")


class Effect(BaseModel):
    """A metric of a variant, and how it differs from the control's; columns of `experiment_results`."""

    model_config = ConfigDict(frozen=True)

    metric: str
    variant: str
    users: int
    value: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    any_time_low: float | None = None
    any_time_high: float | None = None


def analyse(spark: SparkSession, tables: Tables, experiment: dict[str, Any]) -> tuple[float | None, list[Effect]]:
    """Measure an experiment on its exposures and events as they are, and record it once.

    Parameters
    ----------
    spark : SparkSession
    tables : Tables
    experiment : dict
        Row of `experiments`.

    Returns
    -------
    (float or None, list of Effect)
        The p-value of the sample ratio, and every variant's metrics, the control's first.
    """
    versions = {table: tables.version(table) for table in ("exposures", "events")}
    outcomes = _outcomes(tables, experiment, versions)
    control, shares = experiment["control"], experiment["shares"]
    names = [control, *sorted(set(shares) - {control})]
    counts = [outcomes[METRICS[0], name].users for name in names]
    chance = _finite(sample_ratio_p_value(counts, [shares[name] for name in names]))
    effects = [
        _effect(
            metric, name, outcomes[metric, name], outcomes[metric, control] if name != control else None, experiment
        )
        for metric in METRICS
        for name in names
    ]
    analysis = digest(experiment["experiment"], str(sorted(versions.items())))[:16]
    facts = {
        "experiment": experiment["experiment"],
        "analysis_id": analysis,
        "analysed_at": datetime.now(timezone.utc),
        "sample_ratio_p_value": chance,
    }
    tables.ensure("experiment_results")
    tables.append_rows(
        "experiment_results", [facts | effect.model_dump() for effect in effects], txn=(f"analysis-{analysis}", 0)
    )
    return chance, effects


def effects_table(name: str, effects: list[Effect]) -> Table:
    """Return the effects for people."""
    table = Table("metric", "variant", "users", "value", "lift", "95 %", "p", "95 % at any time", box=None)
    values = {effect.metric: effect.value for effect in effects if effect.difference is None}
    for effect in effects:
        base = values.get(effect.metric)
        lift = "" if effect.difference is None or not base else f"{effect.difference / base:+.1%}"
        table.add_row(
            effect.metric, effect.variant, f"{effect.users:,}", _number(effect.value), lift,
            _interval(effect.low, effect.high), _number(effect.p_value),
            _interval(effect.any_time_low, effect.any_time_high),
        )  # fmt: skip
    table.title = f"experiment {name}"
    return table


def _outcomes(tables: Tables, experiment: dict[str, Any], versions: dict[str, int]) -> dict[tuple[str, str], Outcomes]:
    """Sum up what the users of each variant did after their first exposure."""
    exposures = tables.read("exposures", versions["exposures"]).where(F.col("experiment") == experiment["experiment"])
    worth = F.coalesce(*(F.when(F.col("event_type") == kind, value) for kind, value in experiment["outcomes"].items()))
    events = tables.read("events", versions["events"]).select("user_id", "event_time", worth.alias("worth"))
    seconds = int(experiment["window_days"] * 86_400)
    until = F.timestamp_micros(F.unix_micros("exposed_at") + F.lit(seconds * 1_000_000))
    inside = (F.col("event_time") >= F.col("exposed_at")) & (F.col("event_time") < until)
    per_user = (
        exposures.join(events.where("worth > 0"), "user_id", "left")
        .groupBy("variant", "user_id")
        .agg(F.coalesce(F.sum(F.when(inside, F.col("worth"))), F.lit(0.0)).alias("total"))
    )
    sums = per_user.groupBy("variant").agg(
        F.count(F.lit(1)).alias("users"),
        F.count_if(F.col("total") > 0).alias("with_outcome"),
        F.sum("total").alias("total"),
        F.sum(F.col("total") * F.col("total")).alias("squares"),
    )
    found = {(metric, name): Outcomes(0, 0.0, 0.0) for metric in METRICS for name in experiment["variants"]}
    for row in sums.collect():
        found[METRICS[0], row.variant] = Outcomes(row.users, row.with_outcome, row.with_outcome)
        found[METRICS[1], row.variant] = Outcomes(row.users, row.total, row.squares)
    return found


def _effect(metric: str, variant: str, own: Outcomes, control: Outcomes | None, experiment: dict[str, Any]) -> Effect:
    plain = Effect(metric=metric, variant=variant, users=own.users, value=_finite(own.mean))
    if control is None:
        return plain
    fixed, any_time = compare(control, own), compare_any_time(control, own, experiment["planned_users"])
    return plain.model_copy(
        update={
            "difference": _finite(fixed.difference),
            "low": _finite(fixed.low),
            "high": _finite(fixed.high),
            "p_value": _finite(p_value(control, own)),
            "any_time_low": _finite(any_time.low),
            "any_time_high": _finite(any_time.high),
        }
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:+.4g} to {high:+.4g}"
