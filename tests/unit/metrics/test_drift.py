"""Drift detectors on planted changes, on stationary metrics, and across restarts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakefactor.config import Stream
from lakefactor.metrics.drift import BASELINE, DriftWatch, change_point

SETTINGS = Stream()


def batches(values, name="recall_at_10", version="v1"):
    return [
        {"batch_id": number, "model_version": version, "metrics": {name: float(value)}}
        for number, value in enumerate(values)
    ]


def detected(rows):
    watch = DriftWatch(SETTINGS)
    return [c for row in rows for c in watch.update(row["batch_id"], row["model_version"], row["metrics"])]


def noise(seed, n, mean=0.2, deviation=0.01):
    return np.random.default_rng(seed).normal(mean, deviation, n)


@pytest.mark.parametrize(("mean", "deviation"), [(0.2, 0.01), (0.003, 0.001), (40.0, 7.0)])
def test_stationary_metrics_fire_rarely_at_any_scale(mean, deviation):
    # Settings promise well below one alarm in 10,000 micro-batches of each detector; 10,000 are given.
    changes = [change for seed in range(5) for change in detected(batches(noise(seed, 2000, mean, deviation)))]
    assert len(changes) <= 1


@pytest.mark.parametrize("metric", ["recall_at_10", "rmse"])
@pytest.mark.parametrize(("shift", "within"), [(-3.0, 60), (3.0, 60), (-6.0, 40)])
def test_both_detectors_find_a_planted_change_and_its_means(metric, shift, within):
    found = []
    for seed in range(5):
        values = noise(seed, 400)
        values[300:] += shift * 0.01
        changes = detected(batches(values, f"{metric}.tail_items"))
        assert [change.detector for change in changes if change.batch_id < 300] == []
        for detector in ("adwin", "page_hinkley"):
            first = next(change for change in changes if change.detector == detector)
            assert first.batch_id < 300 + within
            assert (first.segment, first.metric, first.model_version) == ("tail_items", metric, "v1")
            found.append((first.before, first.after))
    for before, after in found:
        # Standard errors: 0.0006 of 300 values, and 0.003 of the dozen after the change.
        assert before == pytest.approx(0.2, abs=0.004)
        assert after - before == pytest.approx(shift * 0.01, abs=0.012)


@pytest.mark.parametrize("detector", ["adwin", "page_hinkley"])
def test_the_means_are_those_around_the_change(detector):
    values = np.where(np.arange(200) % 2, 0.21, 0.19)
    values[120:] -= 0.1
    first = next(c for c in detected(batches(values)) if c.detector == detector)
    assert first.before == pytest.approx(values[:120].mean(), abs=1e-12)
    assert first.after == pytest.approx(values[120 : first.batch_id + 1].mean(), abs=1e-12)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=30))
def test_the_change_point_leaves_the_least_squares(values):
    values = np.array(values)
    left = [values[:p].var() * p + values[p:].var() * (len(values) - p) for p in range(1, len(values))]
    assert left[change_point(values) - 1] == pytest.approx(min(left), abs=1e-9)


def test_a_restart_at_any_batch_detects_what_the_unbroken_run_does():
    values = noise(3, 500)
    values[150:320] -= 0.05
    values[420:] += 0.04
    rows = batches(values)
    for row, other in zip(rows, noise(4, 500, 1.2, 0.1), strict=True):
        row["metrics"] |= {"rmse.new_users": float(other) + (0.8 if row["batch_id"] >= 250 else 0.0)}
        row["model_version"] = "v1" if row["batch_id"] < 380 else "v2"
        if row["batch_id"] % 3 == 0:
            del row["metrics"]["rmse.new_users"]  # a micro-batch without new users
    unbroken = DriftWatch(SETTINGS)
    expected = [unbroken.update(row["batch_id"], row["model_version"], row["metrics"]) for row in rows]
    assert {c.metric for changes in expected for c in changes} == {"recall_at_10", "rmse"}
    for stop in range(0, 500, 23):
        restarted = DriftWatch(SETTINGS)
        restarted.replay(rows[:stop][::-1])
        rest = [restarted.update(row["batch_id"], row["model_version"], row["metrics"]) for row in rows[stop:]]
        assert rest == expected[stop:]


def test_a_repeated_batch_changes_nothing_and_gets_the_same_answer():
    values = noise(3, 400)
    values[200:] -= 0.05
    once, twice = DriftWatch(SETTINGS), DriftWatch(SETTINGS)
    fired = 0
    for row in batches(values):
        expected = once.update(row["batch_id"], "v1", row["metrics"])
        assert twice.update(row["batch_id"], "v1", row["metrics"]) == expected
        assert twice.update(row["batch_id"], "v1", row["metrics"]) == expected
        assert twice.update(row["batch_id"] - 1, "v1", {"recall_at_10": 9.0}) == []
        fired += len(expected)
    assert fired >= 2


def test_a_publish_is_no_drift():
    rows = batches([*noise(1, 200), *noise(2, 200, 0.5)])
    assert detected(rows)
    for row in rows[200:]:
        row["model_version"] = "v2"
    assert detected(rows) == []


def test_a_constant_metric_is_watched_from_its_first_change():
    # Sums in another order: equal but for the last bits.
    constant = [0.3 + 1e-17, 0.1 + 0.2] * 100
    assert detected(batches(constant)) == []
    changes = detected(batches([*constant, *noise(1, 60, 0.1)]))
    assert {change.detector for change in changes} == {"adwin", "page_hinkley"}
    assert changes[0].before == pytest.approx(0.3, abs=1e-12)


def test_nothing_fires_within_the_baseline():
    assert detected(batches([0.9] * 5 + [0.1] * (BASELINE - 6))) == []


def test_only_prequential_metrics_are_watched():
    values = noise(3, 400)
    values[200:] -= 0.05
    assert detected(batches(values, "user_distance")) == []
    rows = batches(values, "recall_at_10.known_users")
    rows[100]["metrics"] = {"recall_at_10.known_users": float("nan")}
    assert {change.segment for change in detected(rows)} == {"known_users"}


def test_the_ledger_may_have_batches_without_metrics_or_model():
    rows = [*batches(noise(3, 400)), {"batch_id": 400, "model_version": None, "metrics": None}]
    rows[101]["metrics"] = None
    rows[102]["metrics"] = [("recall_at_10", 0.2)]  # a map as pyarrow gives it
    rows[103]["model_version"] = None
    watch = DriftWatch(SETTINGS)
    watch.replay(rows)
    found = [c for i in range(401, 460) for c in watch.update(i, "v1", {"recall_at_10": 0.1})]
    assert {change.detector for change in found} == {"adwin", "page_hinkley"}
