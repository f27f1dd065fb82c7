"""Communicator over torch.distributed: gloo between CPU ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from lakefactor.comm import Communicator, Message, Transfer
from lakefactor.comm.local import Local
from lakefactor.errors import RankFailedError

MESSAGE_BYTES = 256 << 20
"""Longer messages travel in pieces of this size, whatever a transport's own limit is."""


class TorchDist(Communicator):
    """Operations of the default process group; made by :func:`connect`."""

    def __init__(self, proc_rank: int, size: int) -> None:
        self.proc_rank = proc_rank
        self.size = size
        self.bytes_sent = 0

    def all_reduce_sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum by a ring; the order of additions is fixed by the rank numbers."""
        total = torch.from_numpy(np.array(values, dtype=np.float64))
        with peers(self, f"the sum of {total.nbytes} bytes"):
            dist.all_reduce(total)
        self.bytes_sent += 2 * total.nbytes * (self.size - 1) // self.size
        return total.numpy()

    def start(self, sends: Sequence[Message], receives: Sequence[Message]) -> Transfer:
        """Post all messages; gloo's own thread moves them, from and into the arrays themselves."""
        works = []
        with peers(self, "the start of an exchange"):
            # Receives first: gloo holds a message back until its receiver has said where it goes.
            for peer, array in receives:
                works += [dist.irecv(piece, peer) for piece in _pieces(array)]
            for peer, array in sends:
                works += [dist.isend(piece, peer) for piece in _pieces(array)]
        sent = sum(array.nbytes for _, array in sends)
        self.bytes_sent += sent
        return _Posted(self, works, f"an exchange of {sent} bytes out, {sum(a.nbytes for _, a in receives)} in")


class _Posted:
    """Messages that gloo moves; holds on to the works, which hold on to the arrays."""

    def __init__(self, comm: TorchDist, works: list[Any], name: str) -> None:
        self._comm = comm
        self._works = works
        self._name = name

    def wait(self) -> None:
        with peers(self._comm, self._name):
            for work in self._works:
                work.wait()
        self._works = []


def _pieces(array: NDArray) -> Iterator[torch.Tensor]:
    """Yield an array's bytes, at most ``MESSAGE_BYTES`` at a time, as tensors on its memory."""
    data = array.reshape(-1).view(np.uint8)
    for start in range(0, len(data), MESSAGE_BYTES):
        yield torch.from_numpy(data[start : start + MESSAGE_BYTES])


@contextmanager
def peers(comm: Communicator, operation: str) -> Iterator[None]:
    """Turn a lost or silent peer into a typed, retryable error that says which operation failed."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RankFailedError(f"rank {comm.proc_rank} of {comm.size} lost a peer in {operation}: {reason}") from error


@contextmanager
def connect(
    proc_rank: int,
    size: int,
    host: str,
    share: Callable[[str], list[str]],
    timeout_seconds: float,
) -> Iterator[Communicator]:
    """Join the ranks of one attempt for the length of a ``with`` block.

    Parameters
    ----------
    proc_rank, size : int
        This rank, and how many there are.
    host : str
        Address of rank 0 as the others reach it.
    share : callable
        All-gather of one short string per rank, in rank order; used once, to tell the port. Rank 0 keeps the port
        that the kernel gave it, so no other process can take it in between.
    timeout_seconds : float
        Longest wait for a peer in any one operation.

    Raises
    ------
    RankFailedError
        A peer did not come, died, or was silent for longer than the timeout.
    """
    if size == 1:
        yield Local()
        return
    timeout = timedelta(seconds=timeout_seconds)
    comm = TorchDist(proc_rank, size)
    store = None
    if proc_rank == 0:
        store = dist.TCPStore(host, 0, size, is_master=True, timeout=timeout, wait_for_workers=False)
    port = int(share(str(store.port) if store else "")[0])
    with peers(comm, "joining"):
        if store is None:
            store = dist.TCPStore(host, port, size, is_master=False, timeout=timeout)
        dist.init_process_group("gloo", store=store, rank=proc_rank, world_size=size, timeout=timeout)
    try:
        yield comm
    finally:
        dist.destroy_process_group()
