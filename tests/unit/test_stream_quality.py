"""1,000 micro-batches of ml-100k keep at least nine tenths of what a retraining would gain, with the default rules."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("implicit", reason="ranks by the peer's top-k")


@pytest.mark.data
@pytest.mark.parametrize("task", ["ndcg_at_10", "rmse"])
def test_the_default_rules_keep_the_gain(task, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import peers
    import stream_quality

    if not peers.data_folder().is_dir():
        pytest.skip("no data sets")
    events = stream_quality.ml_100k()
    found = stream_quality.compare(task, events, int(0.8 * len(events)), {"defaults": {}}, [0])
    gain = abs(found["retrained"]["figure"] - found["stale"]["figure"])
    assert gain > 0.05  # there is something to keep
    assert found["defaults"]["share_kept"] >= 0.9
