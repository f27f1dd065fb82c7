"""Communicator over torch.distributed: gloo between CPU ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from lakefactor.comm import Communicator
from lakefactor.comm.local import Local
from lakefactor.errors import RankFailedError

MESSAGE_BYTES = 256 << 20
"""Largest message to one peer: bounds gloo's buffers, whatever the length of an exchange."""


class TorchDist:
    """Collectives of the default process group; made by :func:`connect`."""

    def __init__(self, proc_rank: int, size: int) -> None:
        self.proc_rank = proc_rank
        self.size = size

    def all_reduce_sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum by a ring; the order of additions is fixed by the rank numbers."""
        total = torch.from_numpy(np.array(values, dtype=np.float64))
        with _peers(self):
            dist.all_reduce(total)
        return total.numpy()

    def exchange(self, rows: NDArray, send_counts: NDArray[np.int64], recv_counts: NDArray[np.int64]) -> NDArray:
        """Exchange in rounds of at most ``MESSAGE_BYTES`` per pair of ranks."""
        row_bytes = max(1, rows.dtype.itemsize * int(np.prod(rows.shape[1:], dtype=np.int64)))
        round_rows = max(1, MESSAGE_BYTES // row_bytes)
        longest = np.array([max(send_counts.max(), recv_counts.max())], dtype=np.int64)
        with _peers(self):
            dist.all_reduce(torch.from_numpy(longest), op=dist.ReduceOp.MAX)
        received = np.empty((int(recv_counts.sum()), *rows.shape[1:]), dtype=rows.dtype)
        if longest[0] <= round_rows:
            self._round(rows, send_counts, received, recv_counts)
            return received
        send_starts = np.cumsum(send_counts) - send_counts
        recv_starts = np.cumsum(recv_counts) - recv_counts
        for start in range(0, int(longest[0]), round_rows):
            sending = np.clip(send_counts - start, 0, round_rows)
            receiving = np.clip(recv_counts - start, 0, round_rows)
            outgoing = np.concatenate(
                [rows[s + start : s + start + n] for s, n in zip(send_starts, sending, strict=True)]
            )
            incoming = np.empty((int(receiving.sum()), *rows.shape[1:]), dtype=rows.dtype)
            self._round(outgoing, sending, incoming, receiving)
            pieces = np.split(incoming, np.cumsum(receiving)[:-1])
            for piece, s in zip(pieces, recv_starts, strict=True):
                received[s + start : s + start + len(piece)] = piece
        return received

    def _round(self, rows: NDArray, sending: NDArray, received: NDArray, receiving: NDArray) -> None:
        with _peers(self):
            dist.all_to_all_single(
                torch.from_numpy(received),
                torch.from_numpy(np.ascontiguousarray(rows)),
                output_split_sizes=receiving.tolist(),
                input_split_sizes=sending.tolist(),
            )


@contextmanager
def _peers(comm: Communicator) -> Iterator[None]:
    """Turn a lost or silent peer into a typed, retryable error."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RankFailedError(f"rank {comm.proc_rank} of {comm.size} lost a peer: {reason}") from error


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
    with _peers(comm):
        if store is None:
            store = dist.TCPStore(host, port, size, is_master=False, timeout=timeout)
        dist.init_process_group("gloo", store=store, rank=proc_rank, world_size=size, timeout=timeout)
    try:
        yield comm
    finally:
        dist.destroy_process_group()
