"""Which factor rows go from where to where before a half-step: exactly those that some rank's entries need.

Built once, used in every iteration. A rank's rows that *all* others need (the popular ones) are gathered once and sent
from one buffer; the rest is gathered for each receiver. Rows arrive in their place in the receiver's panel: nothing is
copied on that side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakefactor.comm import Communicator, Transfer, exchange_parts
from lakefactor.factorization.wire import Wire, expand, landing, pack
from lakefactor.types import INDEX_DTYPE

MESSAGE_ROWS = 128
"""Rows whose gathering takes about as long as one more message: fewer common rows are not worth their own."""


@dataclass(frozen=True)
class Plan:
    """What a rank sends and receives in one fetch of source rows.

    Attributes
    ----------
    common : int32 ndarray
        Own row numbers that every other rank needs; empty where gathering them once is not cheaper.
    send_rows : int32 ndarray
        The other own row numbers, those for rank 0 first; in this rank's own part all that it needs itself.
    send_counts : int64 ndarray, shape (W,)
        How many of ``send_rows`` are for each rank.
    recv_common, recv_counts : int64 ndarray, shape (W,)
        Rows of the panel that come from each rank's common rows (these come first), and in all.
    """

    common: NDArray[np.int32]
    send_rows: NDArray[np.int32]
    send_counts: NDArray[np.int64]
    recv_common: NDArray[np.int64]
    recv_counts: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """Rows of the panel."""
        return int(self.recv_counts.sum())

    def served(self, proc_rank: int) -> list[NDArray[np.int32]]:
        """Return the rows that this rank, ``proc_rank``, sends to each rank, in the order of the receiver's panel."""
        parts = np.split(self.send_rows, np.cumsum(self.send_counts)[:-1])
        return [part if peer == proc_rank else np.concatenate([self.common, part]) for peer, part in enumerate(parts)]

    def gathered(self, proc_rank: int) -> int:
        """Return how many rows this rank copies in order to send them: the size of its send buffers."""
        return len(self.common) + len(self.send_rows) - int(self.send_counts[proc_rank])

    def sent(self, proc_rank: int) -> int:
        """Return how many rows this rank sends to other ranks."""
        return self.gathered(proc_rank) + len(self.common) * max(0, len(self.send_counts) - 2)

    def fetch(self, comm: Communicator, own: NDArray[Any], wire: Wire = "float32") -> NDArray[Any]:
        """Return the panel, shape (rows, ...): the rows that this rank needs, out of every rank's ``own`` rows."""
        panel = np.empty((self.rows, *own.shape[1:]), dtype=own.dtype)
        self.start(comm, own, panel, wire).wait()
        return panel

    def start(self, comm: Communicator, own: NDArray[Any], panel: NDArray[Any], wire: Wire = "float32") -> Transfer:
        """Begin to fill ``panel``; it is complete, and ``own`` may change, when the transfer has been waited for."""
        sections = np.split(panel, np.cumsum(self.recv_counts)[:-1])
        parts = np.split(self.send_rows, np.cumsum(self.send_counts)[:-1])
        common = pack(own, self.common, wire)
        sends, receives, arriving = [], [], []
        for step in range(1, comm.size):
            # Each rank begins with another peer, so that not all of them send to the same one.
            to, source = (comm.proc_rank + step) % comm.size, (comm.proc_rank - step) % comm.size
            sends += [(to, common), (to, pack(own, parts[to], wire))]
            split = int(self.recv_common[source])
            places = [sections[source][:split], sections[source][split:]]
            receives += [(source, landing(place, wire)) for place in places]
            arriving += places
        transfer = comm.start(sends, receives)
        own.take(parts[comm.proc_rank], axis=0, out=sections[comm.proc_rank], mode="clip")
        return _Expanding(transfer, arriving) if wire == "bfloat16" else transfer


class _Expanding:
    """A transfer of bfloat16 rows."""

    def __init__(self, transfer: Transfer, arriving: list[NDArray[np.float32]]) -> None:
        self._transfer = transfer
        self._arriving = arriving

    def wait(self) -> None:
        self._transfer.wait()
        for rows in self._arriving:
            expand(rows)


def common_rows(demand: NDArray[np.int32], peers: int) -> NDArray[np.int32]:
    """Return the own rows that are cheaper to gather once for all peers than once for each.

    Parameters
    ----------
    demand : int32 ndarray, shape (n,)
        How many of the peers need each own row.
    peers : int
        Other ranks, W - 1.

    Examples
    --------
    Two peers, 1000 rows that both need: 1000 rows gathered instead of 2000, for two messages more.

    >>> len(common_rows(np.full(1000, 2, np.int32), peers=2)), len(common_rows(np.full(9, 2, np.int32), peers=2))
    (1000, 0)
    """
    common = np.flatnonzero(demand == peers).astype(INDEX_DTYPE)
    together, apart = len(common) + peers * MESSAGE_ROWS, peers * len(common)
    return common if together < apart else common[:0]


def make_plan(comm: Communicator, wanted: list[NDArray[np.int32]], n_own: int) -> tuple[Plan, NDArray[np.int64]]:
    """Make the plan that serves what every rank wants; tell each in which order its rows will come.

    Parameters
    ----------
    comm : Communicator
    wanted : list of W int32 ndarrays
        Own row numbers that each rank needs, in its order.
    n_own : int
        Own rows.

    Returns
    -------
    Plan
    int64 ndarray, shape (plan.rows,)
        Which of the rows that this rank asked for (numbered over all owners, in its own order) each panel row is.
    """
    me = comm.proc_rank
    demand = np.zeros(n_own, np.int32)
    for peer, rows in enumerate(wanted):
        if peer != me:
            demand[rows] += 1
    common = common_rows(demand, comm.size - 1)
    place = np.full(n_own, -1, INDEX_DTYPE)
    place[common] = np.arange(len(common), dtype=INDEX_DTYPE)
    places = [place[rows] if peer != me else np.full(len(rows), -1, INDEX_DTYPE) for peer, rows in enumerate(wanted)]
    rest = [rows[where < 0] for rows, where in zip(wanted, places, strict=True)]
    answers = exchange_parts(comm, places)
    recv_counts = np.array([len(answer) for answer in answers], dtype=np.int64)
    recv_common = np.array([np.count_nonzero(answer >= 0) for answer in answers], dtype=np.int64)
    starts = np.cumsum(recv_counts) - recv_counts
    order = [
        start + np.argsort(answer.view(np.uint32), kind="stable")  # -1 becomes the largest
        for start, answer in zip(starts, answers, strict=True)
    ]
    counts = np.array([len(rows) for rows in rest], dtype=np.int64)
    return Plan(common, np.concatenate(rest), counts, recv_common, recv_counts), np.concatenate(order)
