"""Real processes joined by gloo: the same numbers as one process, and an end when a peer dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

import numpy as np
import pytest

from lakefactor.comm import exchange_parts, torch_dist
from lakefactor.comm.local import Local
from lakefactor.comm.torch_dist import connect
from lakefactor.config import Model, Train
from lakefactor.errors import RankFailedError
from lakefactor.factorization.fitting import fit
from lakefactor.factorization.shard import build_shard
from lakefactor.testing.interactions import deal, random_interactions

HOST = "127.0.0.1"
TIMEOUT = 20.0


def _shared_through(pipe: Connection):
    """All-gather of one string, as the barrier task context offers it; the parent relays."""

    def share(text: str) -> list[str]:
        pipe.send(("share", text))
        return pipe.recv()

    return share


def _process(pipe: Connection, proc_rank: int, size: int, job: str) -> None:
    try:
        with connect(proc_rank, size, HOST, _shared_through(pipe), TIMEOUT) as comm:
            pipe.send(("done", JOBS[job](comm)))
    except RankFailedError as error:
        pipe.send(("failed", str(error)))


def run_processes(size: int, job: str) -> list[tuple[str, object]]:
    """Run a job on ``size`` processes; return each one's last message, ("died", None) where it left none."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for proc_rank in range(size):
        ours, theirs = context.Pipe()
        process = context.Process(target=_process, args=(theirs, proc_rank, size, job))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    addresses = [pipe.recv()[1] for pipe in pipes]
    for pipe in pipes:
        pipe.send(addresses)
    results = []
    for pipe in pipes:
        try:
            results.append(pipe.recv())
        except EOFError:
            results.append(("died", None))
    for process in processes:
        process.join(2 * TIMEOUT)
        assert not process.is_alive()
    return results


def _healthy(comm):
    return {"collectives": _collectives(comm), "rounds": _rounds(comm), "objectives": _train(comm)}


def _collectives(comm):
    total = comm.all_reduce_sum(np.array([comm.proc_rank + 0.5, 2.0]))
    parts = [np.full((peer, 2), comm.proc_rank, np.float32) for peer in range(comm.size)]
    return total.tolist(), [part.tolist() for part in exchange_parts(comm, parts)]


def _rounds(comm):
    torch_dist.MESSAGE_BYTES = 16  # four int32 a round
    rows = np.arange(14 * comm.size, dtype=np.int32)
    counts = np.full(comm.size, 14, np.int64)
    return comm.exchange(rows + 100 * comm.proc_rank, counts, counts).tolist()


def _train(comm):
    table = random_interactions(60, 40, 900, seed=5)
    shard = build_shard(comm, deal(table, comm.size)[comm.proc_rank])
    return [i.objective for i in fit(shard, comm, Model(rank=7, seed=3), Train(iterations=3)).history]


def _one_dies(comm):
    if comm.proc_rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return comm.all_reduce_sum(np.zeros(1)).tolist()


JOBS = {"healthy": _healthy, "one_dies": _one_dies}


@pytest.fixture(scope="module")
def healthy():
    results = run_processes(3, "healthy")
    assert [state for state, _ in results] == ["done"] * 3, results
    return [result for _, result in results]


def test_collectives(healthy):
    for proc_rank, result in enumerate(healthy):
        total, parts = result["collectives"]
        assert total == [0.5 + 1.5 + 2.5, 6.0]
        assert parts == [[[float(peer)] * 2] * proc_rank for peer in range(3)]


def test_long_exchanges_go_in_rounds(healthy):
    for proc_rank, result in enumerate(healthy):
        mine = range(14 * proc_rank, 14 * proc_rank + 14)
        assert result["rounds"] == [100 * peer + value for peer in range(3) for value in mine]


def test_training_equals_one_process(healthy):
    expected = _train(Local())
    for result in healthy:
        np.testing.assert_allclose(result["objectives"], expected, rtol=1e-5)


def test_a_killed_rank_ends_the_others():
    (first, message), (second, _), (third, _) = run_processes(3, "one_dies")
    assert (first, second, third) == ("failed", "died", "failed")
    assert "rank 0 of 3 lost a peer" in str(message)


def test_one_rank_needs_no_network():
    with connect(0, 1, "no such host", lambda text: [text], TIMEOUT) as comm:
        assert comm.size == 1
