"""Which command writes which table, for errors that say what to run."""

from __future__ import annotations

WRITTEN_BY = {
    "events": "ingest",
    "rejects": "ingest",
    "interactions": "ingest",
    "user_factors": "train",
    "item_factors": "train",
    "models": "train",
    "run_log": "train",
    "evaluations": "evaluate",
    "live_model": "publish",
    "decisions": "publish",
    "recommendations": "recommend",
    "similar_items": "recommend",
    "factor_updates": "stream",
    "stream_ledger": "stream",
    "drift": "stream",
}
