"""The standalone cluster that other tests run on: it comes up, runs work on every worker, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakefactor.testing.cluster import processes_of, standalone_cluster

pytestmark = pytest.mark.slow


def test_a_cluster_comes_up_and_leaves_no_process(tmp_path: Path) -> None:
    with standalone_cluster(tmp_path, workers=({}, {})) as cluster:
        sessions = [daemon.process.pid for daemon in (cluster.master, *cluster.workers)]
        assert len(cluster.workers) == 2
        assert cluster.url.startswith("spark://127.0.0.1:")
        assert all(processes_of(session) for session in sessions)
    assert [processes_of(session) for session in sessions] == [[], [], []]


def test_a_worker_that_cannot_start_is_reported_with_its_log_(tmp_path: Path) -> None:
    needs_a_missing_script = {
        "spark.worker.resource.gpu.amount": "1",
        "spark.worker.resource.gpu.discoveryScript": "/nowhere/at-all.sh",
    }
    with (
        pytest.raises(RuntimeError, match="/nowhere/at-all.sh"),
        standalone_cluster(tmp_path, [needs_a_missing_script]),
    ):
        pytest.fail("the worker has no GPU to lend")
