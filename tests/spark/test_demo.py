"""demo: every step, on synthetic events and on a person's own file."""

from __future__ import annotations

import pytest

from lakefactor.pipelines import demo
from lakefactor.spark.tables import Tables


@pytest.fixture
def quick(config):
    sections = {
        "model": {"rank": 8},
        "train": {"iterations": 4},
        "recommend": {"similar_n": 3},
        "synthetic": {"users": 200, "items": 60, "events": 4000, "groups": 4},
    }
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=keys) for name, keys in sections.items()}
    )


def test_synthetic_demo_beats_popularity_and_publishes(spark, quick, capsys):
    result = demo.run(spark, quick)
    assert (result.events, result.rejected, result.published) == (4000, 0, True)
    assert result.metrics["model"]["ndcg_at_10"] > result.metrics["popularity"]["ndcg_at_10"]
    root = result.warehouse
    tables = Tables(spark, quick.tables.model_copy(update={"root": root}))
    assert [row.model_version for row in tables.read("live_model").collect()] == [result.model_version]
    assert result.recommendations == tables.read("recommendations").count()
    told = capsys.readouterr().err
    for step in ("1. Ingest", "2. Train", "3. Evaluate", "4. Publish", "5. Recommend", "likes groups"):
        assert step in told


def test_own_file_without_times(spark, quick, tmp_path):
    """A refusal of the gate is told, not raised: this file has nothing to learn from."""
    file = tmp_path / "plays [bold].csv"
    rows = [f"u{user},i{(user * 7 + step * step) % 9}" for user in range(12) for step in range(4)]
    file.write_text("user,item\n" + "\n".join(rows) + "\n")
    result = demo.run(spark, quick, file)
    assert result.events == 48
    assert result.warehouse.endswith("/plays [bold]")
    assert result.recommendations > 0
