"""The retry loop: what is repeated, from which snapshot, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakefactor.config import Model, Train
from lakefactor.errors import InputError, RankFailedError, SnapshotError
from lakefactor.factorization.fitting import fit
from lakefactor.factorization.shard import build_shard
from lakefactor.factorization.snapshot import Place, write
from lakefactor.factorization.snapshot_folder import Folder
from lakefactor.spark.attempts import attempt_until_done
from lakefactor.testing.interactions import deal, random_interactions
from lakefactor.testing.threads import run_ranks


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Folder with snapshots of iterations 2 and 4."""
    place = Place(Folder(str(tmp_path / "_snapshots")), "20260101-000000-abcd", "identity")
    parts = deal(random_interactions(20, 15, 100, seed=1), 1)

    def on_rank(comm):
        shard = build_shard(comm, parts[0])

        def keep(training):
            if len(training.history) % 2 == 0:
                write(place, comm, shard, training)

        fit(shard, comm, Model(rank=3), Train(iterations=4), on_iteration=keep)

    run_ranks(1, on_rank)
    return place


def run(limit: int, place: Place | None, outcomes: list):
    """Run attempts with the given outcomes; return (result or error, (number, iteration) of each, what was said)."""
    attempts, said, left = [], [], list(outcomes)

    def action(attempt):
        attempts.append((attempt.number, attempt.snapshot and attempt.snapshot.iteration))
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    try:
        result = attempt_until_done(limit, place, action, said.append)
    except Exception as error:
        result = error
    return result, attempts, said


def test_the_first_success_is_the_result():
    assert run(3, None, ["done"]) == ("done", [(1, None)], [])


def test_a_lost_rank_is_tried_again_from_the_newest_snapshot(place):
    result, attempts, said = run(3, place, [RankFailedError("rank 1 of 2 died"), "done"])
    assert (result, attempts) == ("done", [(1, 4), (2, 4)])
    assert "attempt 1 of 3 failed: rank 1 of 2 died" in said
    assert said.count("going on from the snapshot of iteration 4") == 2


def test_without_snapshots_it_begins_anew():
    result, attempts, said = run(2, None, [RankFailedError("lost"), "done"])
    assert (result, attempts) == ("done", [(1, None), (2, None)])
    assert said[-1] == "no usable snapshot: beginning anew"


def test_the_last_attempt_says_what_to_do():
    error, attempts, _ = run(2, None, [RankFailedError("lost"), RankFailedError("lost again")])
    assert isinstance(error, RankFailedError)
    assert str(error) == "lost again (attempt 2 of 2; the same command goes on from the last snapshot)"
    assert len(attempts) == 2


@pytest.mark.parametrize("fatal", [InputError("bad input"), ValueError("a defect"), KeyboardInterrupt()])
def test_what_would_fail_again_is_not_repeated(fatal):
    attempts = []

    def action(attempt):
        attempts.append(attempt)
        raise fatal

    with pytest.raises(type(fatal)) as caught:
        attempt_until_done(3, None, action, lambda text: None)
    assert caught.value is fatal
    assert len(attempts) == 1


def test_a_damaged_snapshot_costs_no_attempt_and_the_one_before_it_is_used(place):
    outcomes = [SnapshotError("4 is damaged"), SnapshotError("2 is damaged"), RankFailedError("lost"), "done"]
    result, attempts, said = run(2, place, outcomes)
    assert (result, attempts) == ("done", [(1, 4), (1, 2), (1, None), (2, None)])
    assert {"4 is damaged", "2 is damaged", "no usable snapshot: beginning anew"} <= set(said)


def test_a_snapshot_error_without_a_snapshot_is_final():
    error, attempts, _ = run(3, None, [SnapshotError("cannot write")])
    assert isinstance(error, SnapshotError)
    assert len(attempts) == 1
