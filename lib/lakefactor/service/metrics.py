"""What the service tells Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lakefactor.service.snapshot import Snapshot

_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Metrics:
    """Counters of one service, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "lakefactor_requests", "Requests answered", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "lakefactor_request_seconds", "Time to answer", ["route"], buckets=_SECONDS, registry=registry
        )
        self.look_failures = Counter(
            "lakefactor_look_failures", "Looks at the tables that did not lead to a model", registry=registry
        )
        self._looked_at = Gauge("lakefactor_last_look_timestamp_seconds", "Last look that succeeded", registry=registry)
        self._batch_id = Gauge("lakefactor_batch_id", "Last micro-batch in the snapshot", registry=registry)
        self._users = Gauge("lakefactor_users", "Users of the model", registry=registry)
        self._items = Gauge("lakefactor_items", "Items of the model", registry=registry)
        self._recall = Gauge(
            "lakefactor_recall_at_100", "Share of the true list in that of the index; 1: no index", registry=registry
        )
        self._model = Gauge("lakefactor_model", "The model version that answers", ["model_version"], registry=registry)

    def looked(self, snapshot: Snapshot) -> None:
        """Take over what a look at the tables has found."""
        self._looked_at.set(time.time())
        self._batch_id.set(snapshot.batch_id)
        self._users.set(len(snapshot.users))
        self._items.set(len(snapshot.model.catalogue.ids))
        index = snapshot.ranking.index
        self._recall.set(1.0 if index is None else index.recall or 0.0)
        self._model.clear()
        self._model.labels(snapshot.model.model_version).set(1)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)
