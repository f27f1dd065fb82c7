"""The status of a stream, and the replay of its drift watch, from a ledger that Spark wrote."""

from __future__ import annotations

import struct
from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow.compute as pc
from pyspark.sql import SparkSession

from lakefactor.config import Config
from lakefactor.metrics.drift import DriftWatch
from lakefactor.query.lake import Lake
from lakefactor.query.stream_status import Counts, status
from lakefactor.spark.tables import Tables

START = datetime(2026, 11, 20, 8, tzinfo=timezone.utc)
BATCHES = 130


def test_a_ledger_of_spark_is_read_and_replayed(spark: SparkSession, config: Config) -> None:
    values = np.random.default_rng(5).normal(0.2, 0.01, BATCHES)
    values[100:] -= 0.03
    rows = [
        {
            "stream": config.stream.name,
            "source": "changes",
            "batch_id": number,
            "model_version": "v1",
            "input_versions": {"events": 0},
            "metrics": {"recall_at_10": float(value)},
            "acted": {},
            "seconds": {"total": 1.5},
            "newest_event_time": START if number == BATCHES - 1 else None,
            "started_at": START + timedelta(seconds=number),
            "finished_at": START + timedelta(seconds=number + 1),
        }
        | dict.fromkeys(
            ("read", "accepted", "duplicates", "rejected", "users", "items", "new_users", "new_items"), number
        )
        for number, value in enumerate(values)
    ]
    tables = Tables(spark, config.tables)
    tables.ensure("stream_ledger")
    frame = spark.createDataFrame(rows, tables.read("stream_ledger").schema)
    tables.append("stream_ledger", frame.repartition(2))
    tables.ensure("events")
    event = {"event_id": bytes(16), "user_id": "u", "item_id": "i", "event_type": "click", "value": 1.0}
    event |= {"event_time": START, "source": "s", "ingested_at": START}
    events = spark.createDataFrame(
        [event | {"event_id": bytes([n] * 16)} for n in range(7)], tables.read("events").schema
    )
    tables.append("events", events)

    found = status(config, START + timedelta(seconds=BATCHES + 9))
    total = sum(range(BATCHES))
    assert found.total == Counts(batches=BATCHES, rows=total, events=total, duplicates=total, rejected=total)
    assert (found.batch_id, found.lag_seconds, found.event_lag_seconds) == (BATCHES - 1, 9.0, BATCHES + 9.0)
    assert found.lag_events == 7
    assert found.metrics == {"recall_at_10": values[-1]}

    ledger = Lake(config.tables).rows("stream_ledger", ["batch_id", "model_version", "metrics"])
    ledger = ledger.filter(pc.field("batch_id") < 90)
    restarted, unbroken = DriftWatch(config.stream), DriftWatch(config.stream)
    restarted.replay(ledger.to_pylist(maps_as_pydicts="strict"))
    seen = []
    for row in rows:
        seen.append(unbroken.update(row["batch_id"], "v1", row["metrics"]))
        if row["batch_id"] >= 90:
            assert restarted.update(row["batch_id"], "v1", row["metrics"]) == seen[-1]
    assert any(seen)
    bits = {row["batch_id"]: struct.pack("d", dict(row["metrics"])["recall_at_10"]) for row in ledger.to_pylist()}
    assert bits == {number: struct.pack("d", values[number]) for number in range(90)}
