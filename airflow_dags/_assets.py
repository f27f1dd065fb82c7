"""Tables as assets, by their names in schemas/: a DAG that has written a table starts those that wait for it."""

from __future__ import annotations

from airflow.sdk import Asset


def table(name: str) -> Asset:
    """Return the asset of a table."""
    return Asset(name, uri=f"x-lakefactor://{name}")


EVENTS, INTERACTIONS, MODELS = table("events"), table("interactions"), table("models")
LIVE_MODEL, RECOMMENDATIONS, DRIFT = table("live_model"), table("recommendations"), table("drift")
FACTOR_UPDATES = table("factor_updates")
