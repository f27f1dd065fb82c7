"""Which command writes which table, for errors that say what to run."""

from __future__ import annotations

WRITTEN_BY = {
    "events": "ingest",
    "rejects": "ingest",
    "interactions": "ingest",
    "items": "items",
    "user_factors": "train",
    "item_factors": "train",
    "models": "train",
    "run_log": "train",
    "trials": "tune",
    "evaluations": "evaluate",
    "live_model": "publish",
    "decisions": "publish",
    "recommendations": "recommend",
    "similar_items": "recommend",
    "explanations": "explain",
    "factor_updates": "stream",
    "stream_ledger": "stream",
    "drift": "stream",
    "experiments": "experiment",
    "exposures": "experiment",
    "experiment_results": "experiment",
    "suppressions": "forget",
    "erasures": "forget",
}


def absent(table: str, place: str) -> str:
    """Say that a table is not there, and what creates it.

    >>> absent("events", "/lake/events")
    "table events does not exist at /lake/events; 'lakefactor ingest' creates it (or tables.root is wrong)"
    """
    command = WRITTEN_BY.get(table)
    advice = f"'lakefactor {command}' creates it" if command else "no command creates it"
    setting = "tables.root" if "/" in place else "tables.catalog"
    return f"table {table} does not exist at {place}; {advice} (or {setting} is wrong)"
