"""A communicator between threads: many ranks in one process, for property tests over the number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from threading import Barrier, BrokenBarrierError, Event
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lakefactor.comm import Communicator, Message, Transfer

Result = TypeVar("Result")
Mail = dict[tuple[int, int], "SimpleQueue[tuple[NDArray, Event]]"]


class _Thread(Communicator):
    """One rank; all share a board on which each rank puts what it sums, and a mailbox for each pair of ranks.

    A message is not copied before its receiver waits for it: a sender that changes an array too early is found out.
    """

    def __init__(self, proc_rank: int, board: list[Any], mail: Mail, barrier: Barrier) -> None:
        self.proc_rank = proc_rank
        self.size = len(board)
        self.bytes_sent = 0
        self._board = board
        self._mail = mail
        self._barrier = barrier

    def _share(self, value: Any) -> list[Any]:
        self._board[self.proc_rank] = value
        self._barrier.wait()
        everything = list(self._board)
        self._barrier.wait()
        return everything

    def all_reduce_sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        self.bytes_sent += 2 * values.nbytes * (self.size - 1) // self.size
        return np.sum(self._share(np.array(values, dtype=np.float64)), axis=0)

    def start(self, sends: Sequence[Message], receives: Sequence[Message]) -> Transfer:
        posted = []
        for peer, array in sends:
            assert peer != self.proc_rank
            if array.nbytes:
                posted.append((array, Event()))
                self._mail[self.proc_rank, peer].put(posted[-1])
        self.bytes_sent += sum(array.nbytes for _, array in sends)
        return _Posted(self, [taken for _, taken in posted], [m for m in receives if m[1].nbytes])

    def receive(self, peer: int) -> tuple[NDArray, Event]:
        while True:
            try:
                return self._mail[peer, self.proc_rank].get(timeout=0.05)
            except Empty:
                self.check()

    def check(self) -> None:
        """Raise if another rank has failed, so that nobody waits for it."""
        if self._barrier.broken:
            raise BrokenBarrierError


class _Posted:
    def __init__(self, comm: _Thread, taken: list[Event], receives: list[Message]) -> None:
        self._comm, self._taken, self._receives = comm, taken, receives

    def wait(self) -> None:
        for peer, array in self._receives:
            sent, taken = self._comm.receive(peer)
            assert sent.shape == array.shape
            assert sent.dtype == array.dtype
            array[...] = sent
            taken.set()
        for event in self._taken:
            while not event.wait(0.05):
                self._comm.check()


def run_ranks(size: int, function: Callable[[Communicator], Result]) -> list[Result]:
    """Run a function on ``size`` ranks at once; return what each returned, in rank order.

    A rank's exception ends the others, and is raised.
    """
    barrier = Barrier(size)

    def on_rank(proc_rank: int) -> Result:
        try:
            return function(_Thread(proc_rank, board, mail, barrier))
        except BaseException:
            barrier.abort()
            raise

    board: list[Any] = [None] * size
    mail: Mail = {(sender, receiver): SimpleQueue() for sender in range(size) for receiver in range(size)}
    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(on_rank, proc_rank) for proc_rank in range(size)]
        errors = [error for future in futures if (error := future.exception())]
    own = [error for error in errors if type(error).__name__ != "BrokenBarrierError"]
    if errors:
        raise (own or errors)[0]
    return [future.result() for future in futures]
