"""How the ranks of one training talk to each other.

A communicator moves numpy arrays and knows nothing of factors, Spark or files. ``local`` is the world of one process;
``torch_dist`` joins many by torch.distributed.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Communicator(Protocol):
    """Collective operations; every rank calls the same ones in the same order."""

    @property
    def proc_rank(self) -> int:
        """Number of this process, 0 <= proc_rank < size."""
        ...

    @property
    def size(self) -> int:
        """Number W of processes."""
        ...

    def all_reduce_sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum an array over all ranks; every rank gets the same bits.

        Parameters
        ----------
        values : float64 ndarray, any shape, the same on every rank
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
        ...


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
