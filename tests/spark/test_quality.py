"""The watch over the live model: what a ledger says, and what is done about it."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from lakefactor.config import Config
from lakefactor.pipelines import publish, quality, train
from lakefactor.pipelines.models import live_version
from lakefactor.spark.tables import Tables
from lakefactor.testing.stream_runs import changed
from lakefactor.testing.tables import taste_groups, write_interactions

METRIC = "ndcg_at_10"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return changed(
        Config(),
        tables={"root": str(tmp_path_factory.mktemp("quality") / "warehouse")},
        model={"rank": 2},
        train={"iterations": 1},
        publish={"require_evaluation": False},
        quality={"window": 3, "max_relative_loss": 0.1, "cool_down": 4},
    )


@pytest.fixture(scope="module")
def versions(spark, config) -> tuple[Tables, str, str]:
    """Two model versions, of which the second replaced the first, and a ledger without micro-batches."""
    tables = write_interactions(spark, config, taste_groups())
    assert quality.run(spark, config).reason == "no model is live"
    both = []
    for seed in (1, 2):
        both.append(train.run(spark, changed(config, model={"seed": seed})).model_version)
        publish.run(spark, config, both[-1])
    for table in ("stream_ledger", "drift"):
        tables.ensure(table)
    return tables, both[0], both[1]


def ledger(tables: Tables, first: int, version: str, values: list[float], metric: str = METRIC) -> None:
    """Enter micro-batches of these figures, as of now."""
    now = datetime.now(timezone.utc)
    blank = dict.fromkeys(("read", "accepted", "duplicates", "rejected", "users", "items", "new_users", "new_items"), 0)
    rows = [
        blank
        | {
            "stream": "default",
            "source": "files",
            "batch_id": first + number,
            "model_version": version,
            "input_versions": {},
            "acted": {},
            "metrics": {metric: value},
            "seconds": {},
            "newest_event_time": None,
            "started_at": now,
            "finished_at": now,
        }
        for number, value in enumerate(values)
    ]
    tables.append_rows("stream_ledger", rows)


def drift(tables: Tables, version: str, batch_id: int, before: float, after: float) -> None:
    tables.append_rows(
        "drift",
        [
            {
                "stream": "default",
                "batch_id": batch_id,
                "model_version": version,
                "segment": "all",
                "metric": METRIC,
                "detector": "adwin",
                "before": before,
                "after": after,
                "detected_at": datetime.now(timezone.utc),
            }
        ],
    )


def test_a_life_of_two_versions(spark, config, versions):
    """One story, since each state follows from the one before."""
    tables, old, new = versions
    ledger(tables, 0, old, [0.9, 0.31, 0.30, 0.29])  # all before the second was published, as the ledger has it
    ledger(tables, 4, new, [0.2, 0.2])
    found = quality.run(spark, config)
    assert (found.model_version, found.batches, found.value, found.retrain) == (new, 2, None, False)
    assert found.previous_value == pytest.approx(0.30)

    # Three micro-batches, and 10 % is not exceeded: the version stays.
    ledger(tables, 6, new, [0.41])
    found = quality.run(spark, config)
    assert (found.value, found.rolled_back_to) == (pytest.approx(0.27), None)
    assert found.reason == "no drift since the newest training"

    # A change for the better calls for nothing; one for the worse waits for the cool-down.
    drift(tables, new, 6, 0.2, 0.4)
    assert not quality.run(spark, config).retrain
    drift(tables, new, 7, 0.3, 0.2)
    waiting = quality.run(spark, config)
    assert (waiting.retrain, waiting.batches) == (False, 3)
    assert waiting.reason.endswith("but it has had 3 of 4 micro-batches (quality.cool_down)")
    ledger(tables, 7, new, [0.27])
    found = quality.run(spark, config)
    assert found.retrain
    assert found.reason == (
        f"ndcg_at_10 (all) of model version {new} drifted from 0.3000 to 0.2000 in micro-batch 7: "
        "a retraining is called for"
    )
    third = train.run(spark, changed(config, model={"seed": 3})).model_version
    assert not quality.run(spark, config).retrain  # it has been answered, published or not

    # Worse than the version before by more than 10 %: back, once, and recorded.
    publish.run(spark, config, third)
    ledger(tables, 8, third, [0.1, 0.1, 0.1])
    found = quality.run(spark, config)
    assert (found.rolled_back_to, live_version(tables)) == (new, new)
    decision = max(tables.collect("decisions"), key=lambda row: row["decided_at"])
    assert (decision["model_version"], decision["action"]) == (new, "rollback")
    assert decision["reason"] == found.reason
    assert found.reason == "ndcg_at_10 of 3 micro-batches fell from 0.2933 to 0.1000, by more than 10%"
    ledger(tables, 11, new, [0.01] * 3)
    assert quality.run(spark, config).rolled_back_to is None
    assert live_version(tables) == new


def test_what_users_do_later_is_no_reason_to_go_back(spark, config, versions):
    """The first micro-batches of a version decide; when the metric falls later, that is for the drift detectors."""
    tables, old, new = versions
    publish.run(spark, config, old)
    ledger(tables, 20, old, [0.02, 0.02, 0.02])
    publish.run(spark, config, new)
    ledger(tables, 23, new, [0.02, 0.02, 0.02, 0.001, 0.001, 0.001])
    found = quality.run(spark, config)
    assert (found.rolled_back_to, found.value, found.previous_value) == (None, pytest.approx(0.02), pytest.approx(0.02))
    assert live_version(tables) == new
