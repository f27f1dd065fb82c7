"""The status of a stream from real Delta tables."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deltalake import DeltaTable
from rich.console import Console

from lakefactor.config import Config, Stream, Tables
from lakefactor.errors import ConfigError
from lakefactor.query.stream_status import Counts, StreamStatus, render, status

WriteTable = Callable[..., None]

START = datetime(2026, 11, 20, 8, tzinfo=timezone.utc)
BATCHES = 130


def batch(number: int, **fields: Any) -> dict[str, Any]:
    """Return the ledger's row of a micro-batch that begins ten seconds after the one before."""
    started = START + timedelta(seconds=10 * number)
    return {
        "stream": "clicks",
        "source": "changes",
        "batch_id": number,
        "model_version": "v1",
        "input_versions": [("events", number), ("user_factors", 3)],
        "read": 100 + number,
        "accepted": 90 + number,
        "duplicates": 7,
        "rejected": 3,
        "metrics": [("recall_at_10", number / 1000), ("recall_at_10.new_users", 0.0), ("user_distance", 0.01)],
        "acted": [("capped", 2)] if number % 2 else [],
        "seconds": [("solve", float(number)), ("total", 2.0 * number)],
        "newest_event_time": started - timedelta(seconds=4),
        "started_at": started,
        "finished_at": started + timedelta(seconds=2),
    } | fields


@pytest.fixture
def config(root: Path) -> Config:
    return Config(tables=Tables(root=str(root)), stream=Stream(name="clicks"))


def text(found: StreamStatus) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render(found))
    return capture.get()


def test_counts_times_and_metrics(write: WriteTable, config: Config) -> None:
    rows = [batch(number) for number in range(BATCHES)]
    rows[-1]["metrics"] = []  # no user of the last one could be scored
    order = np.random.default_rng(0).permutation(BATCHES)
    write("stream_ledger", [rows[number] for number in order[:50]])
    write("stream_ledger", [rows[number] for number in order[50:]])
    write("stream_ledger", [batch(500, stream="views", accepted=10**6)])
    write("live_model", [{"name": "default", "model_version": "v2"}])
    last = START + timedelta(seconds=10 * (BATCHES - 1) + 2)
    found = status(config, now=last + timedelta(seconds=5))
    numbers = np.arange(BATCHES)
    # Done after now - 600 s: 10 n + 2 > 10 * 129 + 2 + 5 - 600, so n >= 70.
    recent = numbers[70:]
    assert found.batch_id == BATCHES - 1
    assert found.finished_at == last
    assert (found.live_version, found.model_version, found.other_streams) == ("v2", "v1", ["views"])
    assert found.total == Counts(
        batches=BATCHES,
        rows=int((100 + numbers).sum()),
        events=int((90 + numbers).sum()),
        duplicates=7 * BATCHES,
        rejected=3 * BATCHES,
    )
    assert found.recent == Counts(
        batches=60, rows=int((100 + recent).sum()), events=int((90 + recent).sum()), duplicates=420, rejected=180
    )
    assert found.events_per_second == pytest.approx((90 + recent).sum() / 600)
    assert (found.lag_seconds, found.event_lag_seconds) == (5.0, 11.0)
    assert found.metrics == {"recall_at_10": 0.128, "recall_at_10.new_users": 0.0, "user_distance": 0.01}
    assert found.acted == {"capped": 2 * 50}
    solve = np.arange(BATCHES - 100, BATCHES)
    assert found.seconds["solve"].p50 == pytest.approx(np.median(solve))
    assert found.seconds["solve"].p95 == pytest.approx(np.percentile(solve, 95))
    assert found.seconds["total"].p95 == pytest.approx(2 * np.percentile(solve, 95))
    assert json.loads(found.model_dump_json())["finished_at"] == "2026-11-20T08:21:32Z"
    shown = text(found)
    for words in ("stream clicks", "v2 (the last micro-batch updated v1)", "129, done 2026-11-20 08:21:32 UTC"):
        assert words in shown
    for words in ("5 s since the last micro-batch, 11 s since the newest event", "390 rejects", "capped 100", "views"):
        assert words in shown


def test_throughput_of_a_young_stream_counts_from_its_start(write: WriteTable, config: Config) -> None:
    write("stream_ledger", [batch(0), batch(1)])
    found = status(config, now=START + timedelta(seconds=20))
    assert found.events_per_second == pytest.approx((90 + 91) / 20)
    idle = status(config, now=START + timedelta(hours=5))
    assert (idle.events_per_second, idle.recent.batches, idle.total.batches) == (0.0, 0, 2)
    assert "5 h since the last micro-batch" in text(idle)


def test_events_that_wait_are_counted_from_the_log(write: WriteTable, config: Config, root: Path) -> None:
    for number in range(4):
        write(
            "events", [{"event_id": bytes([number, n] * 8), "user_id": "u", "item_id": "i"} for n in range(number + 5)]
        )
    write("stream_ledger", [batch(0, input_versions=[("events", 1)])])
    now = START + timedelta(seconds=9)
    assert status(config, now).lag_events == 7 + 8
    # Compaction rewrites files and adds no row.
    DeltaTable(str(root / "events")).optimize.compact()
    assert status(config, now).lag_events == 7 + 8
    assert "15 events wait" in text(status(config, now))
    write("stream_ledger", [batch(1, input_versions=[("events", 4)])])
    assert status(config, now).lag_events == 0


def test_events_that_wait_are_unknown_elsewhere(write: WriteTable, config: Config, root: Path) -> None:
    write("stream_ledger", [batch(0)])
    now = START + timedelta(seconds=9)
    assert status(config, now).lag_events is None  # `events` is not there
    write("events", [{"user_id": "u", "item_id": "i"}])
    assert status(config, now).lag_events == 0
    write("stream_ledger", [batch(1, source="kafka")])
    assert status(config, now).lag_events is None


def test_events_that_wait_are_unknown_where_the_log_was_cleaned(write: WriteTable, config: Config, root: Path) -> None:
    for number in range(3):
        write("events", [{"event_id": bytes([number] * 16), "user_id": "u", "item_id": "i"}])
    write("stream_ledger", [batch(0, input_versions=[("events", 1)])])
    assert status(config).lag_events == 1
    DeltaTable(str(root / "events")).create_checkpoint()
    for version in (0, 1):
        (root / "events" / "_delta_log" / f"{version:020}.json").unlink()
    found = status(config)
    assert (found.batch_id, found.lag_events) == (0, None)


def test_newest_changes_come_first(write: WriteTable, config: Config) -> None:
    write("stream_ledger", [batch(40)])
    changes = [
        {
            "stream": stream,
            "batch_id": number,
            "model_version": "v1",
            "segment": "tail_items",
            "metric": "ndcg_at_10",
            "detector": "adwin",
            "before": 0.5,
            "after": 0.25,
        }
        for stream, number in [("views", 99), *(("clicks", number) for number in range(0, 30, 2))]
    ]
    write("drift", changes)
    found = status(config, now=START + timedelta(seconds=500))
    assert [row["batch_id"] for row in found.drift] == list(range(28, 8, -2))
    assert {key: found.drift[0][key] for key in ("segment", "metric", "detector", "before", "after")} == {
        "segment": "tail_items", "metric": "ndcg_at_10", "detector": "adwin", "before": 0.5, "after": 0.25
    }  # fmt: skip
    assert "tail_items" in text(found)


def test_a_stream_without_a_batch_is_no_error(write: WriteTable, config: Config, root: Path) -> None:
    assert status(config) == StreamStatus(stream="clicks")
    assert text(status(config)) == "stream clicks: no micro-batch is done yet\n"
    write("stream_ledger", [batch(3, stream="views")])
    assert status(config) == StreamStatus(stream="clicks", other_streams=["views"])
    assert "the ledger has other streams: views" in text(status(config))
    shutil.rmtree(root)
    assert status(config).batch_id is None


def test_a_catalog_cannot_be_asked(config: Config) -> None:
    in_catalog = config.model_copy(update={"tables": Tables(root="", catalog="main.lake")})
    with pytest.raises(ConfigError, match="without Spark nobody knows"):
        status(in_catalog)
