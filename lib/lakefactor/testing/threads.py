"""A communicator between threads: many ranks in one process, for property tests over the number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lakefactor.comm import Communicator

Result = TypeVar("Result")


class _Thread:
    """One rank; all share a board on which each rank puts what it sends."""

    def __init__(self, proc_rank: int, board: list[Any], barrier: Barrier) -> None:
        self.proc_rank = proc_rank
        self.size = len(board)
        self._board = board
        self._barrier = barrier

    def _share(self, value: Any) -> list[Any]:
        self._board[self.proc_rank] = value
        self._barrier.wait()
        everything = list(self._board)
        self._barrier.wait()
        return everything

    def all_reduce_sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.sum(self._share(np.array(values, dtype=np.float64)), axis=0)

    def exchange(self, rows: NDArray, send_counts: NDArray[np.int64], recv_counts: NDArray[np.int64]) -> NDArray:
        assert len(rows) == send_counts.sum()
        parts = np.split(rows, np.cumsum(send_counts)[:-1])
        received = [sent[self.proc_rank] for sent in self._share(parts)]
        assert [len(part) for part in received] == recv_counts.tolist()
        return np.concatenate(received)


def run_ranks(size: int, function: Callable[[Communicator], Result]) -> list[Result]:
    """Run a function on ``size`` ranks at once; return what each returned, in rank order.

    A rank's exception ends the others, and is raised.
    """
    barrier = Barrier(size)

    def on_rank(proc_rank: int) -> Result:
        try:
            return function(_Thread(proc_rank, board, barrier))
        except BaseException:
            barrier.abort()
            raise

    board: list[Any] = [None] * size
    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(on_rank, proc_rank) for proc_rank in range(size)]
        errors = [error for future in futures if (error := future.exception())]
    own = [error for error in errors if type(error).__name__ != "BrokenBarrierError"]
    if errors:
        raise (own or errors)[0]
    return [future.result() for future in futures]
