"""What a run took, phase by phase: collected while it goes on, written to `run_log` at its end, good or bad."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from time import perf_counter
from typing import Any

from pyspark.sql import SparkSession

from lakefactor.spark.tables import Tables


@dataclass
class RunLog:
    """The timed phases of one run.

    Attributes
    ----------
    run_id, pipeline : str
    attempt : int
        To which what comes next belongs.
    details : dict
        Facts of the whole run; JSON-able.
    """

    run_id: str
    pipeline: str
    attempt: int = 1
    details: dict[str, Any] = field(default_factory=dict)
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _began: float | None = None

    def begin(self, attempt: int) -> None:
        """Say that the ranks are about to be started."""
        self.attempt = attempt
        self._began = perf_counter()

    def __call__(self, event: dict[str, Any]) -> None:
        """Take an event of a rank, as `lakefactor.spark.training` describes them."""
        if event.get("phase") == "start" and self._began is not None:
            self.add("shuffle", perf_counter() - self._began)
            self._began = None
        elif event.get("phase") == "iteration":
            per_second = 2 * event["entries"] / max(event["seconds"], 1e-9)
            self._add(
                phase="iteration",
                iteration=event["number"],
                seconds=event["seconds"],
                objective=event["objective"],
                entries_per_second=per_second,
                details=None if event["metric"] is None else json.dumps({"metric": event["metric"]}),
            )
        elif "timing" in event:
            self._add(proc_rank=event["proc_rank"], **event["timing"])

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a part of the driver's work."""
        began = perf_counter()
        yield
        self.add(name, perf_counter() - began)

    def add(self, name: str, seconds: float, details: object = None) -> None:
        """Record a phase of the driver."""
        self._add(phase=name, seconds=seconds, details=None if details is None else json.dumps(details))

    def _add(self, **columns: Any) -> None:
        self._rows.append({"attempt": self.attempt, **columns})

    def seconds(self) -> dict[str, float]:
        """Return seconds per phase of the last attempt: of all iterations together, of the slowest rank."""
        sums: dict[tuple[str, Any], float] = defaultdict(float)
        for row in self._rows:
            if row["attempt"] == self.attempt and (row["phase"] != "iteration" or row.get("proc_rank") is not None):
                sums[row["phase"], row.get("proc_rank")] += row["seconds"]
        slowest: dict[str, float] = {}
        for (phase, _), seconds in sums.items():
            slowest[phase] = round(max(slowest.get(phase, 0.0), seconds), 3)
        return slowest

    def write(self, spark: SparkSession, tables: Tables) -> None:
        """Append the rows to the table."""
        tables.ensure("run_log")
        schema = tables.read("run_log").schema
        common = {
            "run_id": self.run_id,
            "model_version": self.run_id,
            "pipeline": self.pipeline,
            "logged_at": datetime.now(timezone.utc),
        }
        rows = [{name: (common | row).get(name) for name in schema.names} for row in self._rows]
        tables.append("run_log", spark.createDataFrame(rows, schema))
