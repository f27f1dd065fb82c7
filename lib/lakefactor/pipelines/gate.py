"""Gate: may a model version become the live one? Answered from what was recorded of it, by configured limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession

from lakefactor.config import Config, Publish
from lakefactor.errors import GateRefusedError
from lakefactor.metrics import sign_of
from lakefactor.pipelines.decisions import Decision, record
from lakefactor.pipelines.evaluations import Evaluation, newest_evaluation
from lakefactor.pipelines.models import live_version, newest
from lakefactor.spark.measuring import MODEL, POPULARITY
from lakefactor.spark.tables import Tables
from lakefactor.spark.tally import ALL


class GateResult(BaseModel):
    """A model version that may be published."""

    model_config = ConfigDict(frozen=True)

    model_version: str
    live_version: str | None
    reason: str
    metric: str
    value: float | None
    live_value: float | None
    popularity_value: float | None


@dataclass(frozen=True)
class Verdict:
    """What the gate says, and the figures that it saw."""

    passed: bool
    reason: str
    value: float | None = None
    live_value: float | None = None
    popularity_value: float | None = None

    def decision(self, model_version: str, action: str, metric: str) -> Decision:
        """Return what is decided on a version by this verdict."""
        return Decision(model_version, action, self.reason, metric, self.value, self.live_value, self.popularity_value)


def run(spark: SparkSession, config: Config, model_version: str | None = None) -> GateResult:
    """Hold a model version (default: the newest) against the gate, and record a refusal.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        ``publish`` and ``tables``.
    model_version : str or None

    Raises
    ------
    GateRefusedError
        It is refused; `decisions` says why.
    TableError
        There is no such version.
    """
    tables = Tables(spark, config.tables)
    live = live_version(tables)
    candidate = newest(tables, model_version).model_version
    verdict = judge(tables, config.publish, candidate, live)
    refuse_unless_passed(tables, config.publish, candidate, live, verdict)
    return GateResult(
        model_version=candidate,
        live_version=live,
        reason=verdict.reason,
        metric=config.publish.metric,
        value=verdict.value,
        live_value=verdict.live_value,
        popularity_value=verdict.popularity_value,
    )


def refuse_unless_passed(tables: Tables, gate: Publish, candidate: str, live: str | None, verdict: Verdict) -> None:
    """Record a refusal, once, and raise GateRefusedError."""
    if verdict.passed:
        return
    record(tables, verdict.decision(candidate, "refuse", gate.metric))
    raise GateRefusedError(f"model version {candidate} was not published: {verdict.reason}; live is {live or 'none'}")


def judge(tables: Tables, gate: Publish, candidate: str, live: str | None) -> Verdict:
    """Compare a candidate's newest evaluation with limits, with popularity's, and with the live model's.

    The live model counts where it was measured by the same split; segments, where on the same interactions too.
    """
    found = newest_evaluation(tables, candidate)
    value = found.value(MODEL, gate.metric) if found else None
    if found is None or value is None:
        reason = f"it has no evaluation with {gate.metric}; run 'lakefactor evaluate --model-version {candidate}'"
        return Verdict(
            not gate.require_evaluation, reason if gate.require_evaluation else "not evaluated, not required"
        )
    before = newest_evaluation(tables, live, like=found) if live and live != candidate else None
    reasons = "; ".join(objections(gate, found, before))
    return Verdict(
        not reasons,
        reasons or f"{gate.metric} {value:.4f} passed the gate",
        value,
        before.value(MODEL, gate.metric) if before else None,
        found.value(POPULARITY, gate.metric),
    )


def objections(gate: Publish, found: Evaluation, before: Evaluation | None) -> list[str]:
    """Return every reason to refuse.

    Parameters
    ----------
    gate : lakefactor.config.Publish
    found : Evaluation
        Of the candidate; it has ``gate.metric``.
    before : Evaluation or None
        Of the live model, by the same split.
    """
    reasons = [*_against_popularity(gate, found), *_against_limits(gate, found)]
    return reasons + list(_against_live(gate, found, before)) if before else reasons


def _against_popularity(gate: Publish, found: Evaluation) -> Iterator[str]:
    value, popularity = found.value(MODEL, gate.metric), found.value(POPULARITY, gate.metric)
    if gate.beat_popularity and popularity is not None and _gain(gate, value, popularity) <= 0:
        yield f"{gate.metric} {value:.4f} does not beat popularity's {popularity:.4f}"


def _against_limits(gate: Publish, found: Evaluation) -> Iterator[str]:
    """Say what the lists would do to the catalogue that is beyond a limit."""
    k = gate.metric.partition("_at_")[2]
    coverage, gini = (found.value(MODEL, f"{name}_at_{k}") for name in ("coverage", "exposure_gini"))
    if coverage is not None and coverage < gate.min_coverage:
        yield f"coverage_at_{k} {coverage:.4f} is below publish.min_coverage {gate.min_coverage:g}"
    if gini is not None and gini > gate.max_exposure_gini:
        yield f"exposure_gini_at_{k} {gini:.4f} is above publish.max_exposure_gini {gate.max_exposure_gini:g}"
    popular, most = (found.value(who, f"mean_popularity_at_{k}") for who in (MODEL, POPULARITY))
    if popular is not None and most and popular / most > gate.max_popularity:
        yield (
            f"its lists are {popular / most:.4f} as popular as those of the most popular items, above "
            f"publish.max_popularity {gate.max_popularity:g}"
        )


def _against_live(gate: Publish, found: Evaluation, before: Evaluation) -> Iterator[str]:
    """Say what is worse than in the live model by more than a limit: over everyone, or surely over a segment."""
    value, live_value = found.value(MODEL, gate.metric), before.value(MODEL, gate.metric)
    if live_value is None:
        return
    if _gain(gate, value, live_value) < -gate.max_relative_loss * abs(live_value):
        yield (
            f"{gate.metric} {value:.4f} is worse than the live model's {live_value:.4f} "
            f"by more than {gate.max_relative_loss:.0%}"
        )
    if found.interactions_version != before.interactions_version:
        return
    for recommender, segment, metric in sorted(found.figures.keys() & before.figures.keys()):
        if (recommender, metric) != (MODEL, gate.metric) or segment == ALL:
            continue
        new, old = found.figures[MODEL, segment, metric], before.figures[MODEL, segment, metric]
        if (bounds := new.minus(old)) is None:
            continue
        gains = [sign_of(metric) * bound for bound in bounds]
        if max(gains) < -gate.max_segment_loss * abs(old.value):
            yield (
                f"{metric} of {segment} {new.value:.4f} is surely worse than the live model's {old.value:.4f} by more "
                f"than {gate.max_segment_loss:.0%}"
            )


def _gain(gate: Publish, value: float | None, other: float) -> float:
    assert value is not None
    return sign_of(gate.metric) * (value - other)
