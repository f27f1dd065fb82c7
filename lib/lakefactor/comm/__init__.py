"""How the ranks of one training talk to each other.

A communicator moves numpy arrays and knows nothing of factors, Spark or files. ``local`` is the world of one process;
``torch_dist`` joins many by torch.distributed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Message = tuple[int, NDArray]
"""A peer's number, and the array that goes to it or comes from it."""


class Transfer(Protocol):
    """Messages on their way; made by `Communicator.start`."""

    def wait(self) -> None:
        """Return when all of them have arrived and been taken: only now may any of the arrays be used again.

        Raises
        ------
        RankFailedError
            A peer was lost, or was silent for longer than the timeout.
        """
        ...


class Communicator(Protocol):
    """Operations between ranks; every rank calls the same collective ones in the same order, from one thread.

    Attributes
    ----------
    proc_rank : int
        Number of this process, 0 <= proc_rank < size.
    size : int
        Number W of processes.
    bytes_sent : int
        Bytes that this rank handed over for other ranks so far, headers not counted.
    """

    proc_rank: int
    size: int
    bytes_sent: int

    def all_reduce_sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum an array over all ranks; every rank gets the same bits.

        Parameters
        ----------
        values : float64 ndarray, any shape, the same on every rank
        """
        ...

    def start(self, sends: Sequence[Message], receives: Sequence[Message]) -> Transfer:
        """Begin to move arrays between ranks, and return at once: they travel while this rank computes.

        Parameters
        ----------
        sends, receives : sequence of (peer, ndarray)
            Arrays to read, and arrays to fill, C order. The n-th array sent to a peer fills the n-th that the peer
            receives from here, which has as many bytes; arrays without bytes are passed over on both sides. No peer
            is this rank.
        """
        ...

    def exchange(self, rows: NDArray, send_counts: NDArray[np.int64], recv_counts: NDArray[np.int64]) -> NDArray:
        """Send a slice of rows to every rank and receive one from each.

        Parameters
        ----------
        rows : ndarray, shape (sum(send_counts), ...)
            Rows for rank 0 first, then those for rank 1, and so on. Same dtype and trailing shape on every rank.
        send_counts, recv_counts : int64 ndarray, shape (W,)
            Rows for and from each rank.

        Returns
        -------
        ndarray, shape (sum(recv_counts), ...)
            Rows of rank 0 first. Not a view of ``rows``.
        """
        received = np.empty((int(recv_counts.sum()), *rows.shape[1:]), dtype=rows.dtype)
        sending = np.split(np.ascontiguousarray(rows), np.cumsum(send_counts)[:-1])
        receiving = np.split(received, np.cumsum(recv_counts)[:-1])
        peers = [peer for peer in range(self.size) if peer != self.proc_rank]
        transfer = self.start([(peer, sending[peer]) for peer in peers], [(peer, receiving[peer]) for peer in peers])
        receiving[self.proc_rank][...] = sending[self.proc_rank]
        transfer.wait()
        return received


def all_gather(comm: Communicator, row: NDArray) -> NDArray:
    """Return every rank's ``row``, shape (W, ...); the same shape and dtype on every rank.

    Examples
    --------
    >>> from lakefactor.comm.local import Local
    >>> all_gather(Local(), np.array([3, 4]))
    array([[3, 4]])
    """
    one_each = np.ones(comm.size, dtype=np.int64)
    return comm.exchange(np.repeat(row[None], comm.size, axis=0), one_each, one_each)


def sum_over_ranks(comm: Communicator, value: float) -> float:
    """Return the sum of one number of each rank."""
    return float(comm.all_reduce_sum(np.array([value], dtype=np.float64))[0])


def exchange_parts(comm: Communicator, parts: list[NDArray]) -> list[NDArray]:
    """Send ``parts[r]`` to rank r and return what each rank sent here, when the lengths are not known beforehand.

    Parameters
    ----------
    comm : Communicator
    parts : list of W ndarrays
        Same dtype and trailing shape; any lengths.

    Examples
    --------
    >>> from lakefactor.comm.local import Local
    >>> exchange_parts(Local(), [np.array([3, 4])])
    [array([3, 4])]
    """
    counts = np.array([len(part) for part in parts], dtype=np.int64)
    received = all_gather(comm, counts)[:, comm.proc_rank]
    rows = comm.exchange(np.concatenate(parts), counts, received)
    return np.split(rows, np.cumsum(received)[:-1])
