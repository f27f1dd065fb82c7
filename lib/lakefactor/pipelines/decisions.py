"""Decisions on model versions, each recorded once: a job that is run again after it was killed decides the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timezone

from lakefactor.config import digest
from lakefactor.pipelines.models import live_row
from lakefactor.spark.tables import Tables


@dataclass(frozen=True)
class Decision:
    """A row of ``decisions``, without its id and time."""

    model_version: str
    action: str
    reason: str
    metric: str
    value: float | None = None
    live_value: float | None = None
    popularity_value: float | None = None


def record(tables: Tables, decision: Decision) -> str:
    """Append a decision, unless the same was taken on the same live model; return its id."""
    tables.ensure("decisions")
    live = live_row(tables)
    decision_id = digest(repr(decision), live["decision_id"] if live else "")[:16]
    row = asdict(decision) | {"decision_id": decision_id, "decided_at": datetime.now(timezone.utc)}
    tables.append_rows("decisions", [row], txn=(decision_id, 0))
    return decision_id
