"""Lines for people and metrics for Prometheus, read back by prometheus_client's parser."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lakefactor.errors import ConfigError
from lakefactor.metrics.drift import Change
from lakefactor.pipelines.stream_report import StreamMetrics, batch_line

MOMENT = datetime(2026, 11, 20, 8, tzinfo=timezone.utc)
CHANGE = Change(1, "v1", "tail_items", "recall_at_10", "adwin", 0.2, 0.1)


def row(**fields: Any) -> dict[str, Any]:
    return {
        "stream": "clicks",
        "batch_id": 7,
        "model_version": "v1",
        "read": 110,
        "accepted": 100,
        "duplicates": 7,
        "rejected": 3,
        "users": 40,
        "items": 20,
        "new_users": 2,
        "new_items": 1,
        "acted": {"capped": 5},
        "metrics": {"recall_at_10": 0.25, "recall_at_10.tail_items": 0.125, "user_distance": 0.5},
        "seconds": {"solve": 0.75, "total": 1.5},
        "newest_event_time": MOMENT - timedelta(seconds=4),
        "finished_at": MOMENT,
    } | fields


def samples(path: Path) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return {(name, labels but stream and version): value}; every sample must have these two."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.documentation
        assert family.type in ("counter", "gauge")
        for sample in family.samples:
            assert sample.name.startswith("lakefactor_stream_")
            labels = dict(sample.labels)
            assert labels.pop("stream") == "clicks"
            key = (sample.name.removeprefix("lakefactor_stream_"), tuple(sorted(labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def test_counters_add_up_and_gauges_are_of_the_last_batch(tmp_path: Path) -> None:
    path = tmp_path / "lakefactor.prom"
    metrics = StreamMetrics(str(path), "clicks")
    assert samples(path) == {}
    metrics.record(row())
    metrics.record(row(batch_id=8, accepted=50, acted={}, finished_at=MOMENT + timedelta(seconds=10)), [CHANGE])
    v1 = ("model_version", "v1")
    of_segment = (("metric", "recall_at_10"), v1, ("segment", "tail_items"))
    expected = {
        ("batches_total", (v1,)): 2,
        ("rows_total", (v1,)): 220,
        ("events_total", (v1,)): 150,
        ("duplicates_total", (v1,)): 14,
        ("rejects_total", (v1,)): 6,
        ("users_solved_total", (v1,)): 80,
        ("items_solved_total", (v1,)): 40,
        ("new_users_total", (v1,)): 4,
        ("new_items_total", (v1,)): 2,
        ("safeguard_acts_total", (v1, ("safeguard", "capped"))): 5,
        ("drift_changes_total", (("detector", "adwin"), *of_segment)): 1,
        ("batch_id", (v1,)): 8,
        ("finished_timestamp_seconds", (v1,)): MOMENT.timestamp() + 10,
        ("newest_event_timestamp_seconds", (v1,)): MOMENT.timestamp() - 4,
        ("step_seconds", (v1, ("step", "solve"))): 0.75,
        ("step_seconds", (v1, ("step", "total"))): 1.5,
        ("quality", (("metric", "recall_at_10"), v1, ("segment", "all"))): 0.25,
        ("quality", of_segment): 0.125,
        ("quality", (("metric", "user_distance"), v1, ("segment", "all"))): 0.5,
    }
    assert samples(path) == expected
    assert [file.name for file in tmp_path.iterdir()] == ["lakefactor.prom"]


def test_a_publish_starts_new_series_and_ends_the_old_gauges(tmp_path: Path) -> None:
    path = tmp_path / "lakefactor.prom"
    metrics = StreamMetrics(str(path), "clicks")
    metrics.record(row())
    metrics.record(row(model_version="v2", accepted=5, metrics={}, newest_event_time=None))
    found = samples(path)
    assert found["events_total", (("model_version", "v1"),)] == 100
    assert found["events_total", (("model_version", "v2"),)] == 5
    gauges = {key: value for key, value in found.items() if not key[0].endswith("_total")}
    assert {dict(labels)["model_version"] for _, labels in gauges} == {"v2"}
    assert not {name for name, _ in gauges} & {"quality", "newest_event_timestamp_seconds"}


def test_a_batch_without_a_live_model_counts(tmp_path: Path) -> None:
    path = tmp_path / "lakefactor.prom"
    StreamMetrics(str(path), "clicks").record(row(model_version=None, metrics=None, acted=None))
    assert samples(path)["events_total", (("model_version", ""),)] == 100


def test_a_file_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"metrics_file .*gone/x.prom cannot be written \(No such file or directory\)"
    ):
        StreamMetrics(str(tmp_path / "gone" / "x.prom"), "clicks")


def test_a_file_that_cannot_be_written_later_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "collector"
    folder.mkdir()
    metrics = StreamMetrics(str(folder / "x.prom"), "clicks")
    (folder / "x.prom").unlink()
    folder.rmdir()
    metrics.record(row())
    metrics.record(row())
    assert capsys.readouterr().err.count("cannot be written") == 1
    folder.mkdir()
    metrics.record(row())
    assert samples(folder / "x.prom")["batches_total", (("model_version", "v1"),)] == 3


def test_the_line_leaves_out_what_is_not_there() -> None:
    bare = row(duplicates=0, rejected=0, metrics=None, newest_event_time=None)
    assert batch_line(bare) == "batch 7: 100 events, 40 users, 20 items, 1.5 s"
    assert batch_line(row()) == (
        "batch 7: 100 events (3 rejected, 7 again), 40 users, 20 items, recall@10 0.250, 1.5 s; lag 4 s"
    )
