"""Some rows of a side that lies in pieces on all ranks: read them, and change them where they are owned.

Rows are named by their global number: the owner's first number plus the row number there.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lakefactor.comm import Communicator, all_gather


class DistantRows:
    """A request for rows; every rank makes one at the same time.

    Parameters
    ----------
    comm : Communicator
    starts : int64 ndarray, shape (W + 1,)
        First global number of each rank's rows, and the number of all rows.
    rows : int64 Tensor, shape (n,)
        Global numbers, ascending, each once; may be empty.
    """

    def __init__(self, comm: Communicator, starts: NDArray[np.int64], rows: Tensor) -> None:
        self._comm = comm
        self._device = rows.device
        if comm.size == 1:
            self._asked = rows
            return
        wanted = rows.cpu().numpy()
        self._wanted_counts = np.diff(np.searchsorted(wanted, starts))
        self._asked_counts = all_gather(comm, self._wanted_counts)[:, comm.proc_rank]
        asked = comm.exchange(wanted, self._wanted_counts, self._asked_counts)
        self._asked = torch.from_numpy(asked - starts[comm.proc_rank]).to(self._device)

    def fetch(self, own: Tensor) -> Tensor:
        """Return the rows, shape (n, columns), from every rank's ``own``."""
        sent = own.index_select(0, self._asked)
        return sent if self._comm.size == 1 else self._move(sent, self._asked_counts, self._wanted_counts)

    def sum_at_owners(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Send one row of values for each requested row to its owner.

        Returns
        -------
        rows : int64 Tensor, shape (m,)
            Own row numbers that any rank asked for, ascending, each once.
        sums : Tensor, shape (m, columns)
            Sums over ranks, in the order of ranks.
        """
        if self._comm.size == 1:
            return self._asked, values
        received = self._move(values, self._wanted_counts, self._asked_counts)
        rows, place = torch.unique(self._asked, return_inverse=True)
        order = torch.argsort(place, stable=True)
        return rows, sum_groups(received, order, torch.bincount(place, minlength=len(rows)))

    def _move(self, rows: Tensor, sent: NDArray[np.int64], received: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._comm.exchange(rows.cpu().numpy(), sent, received)).to(self._device)


def sum_groups(rows: Tensor, indices: Tensor, sizes: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return one sum of rows for each group, shape (len(sizes), columns), added up in the given order.

    Group g sums ``weights[j] * rows[indices[j]]`` over its ``sizes[g]`` places j, groups one after another. Nothing of
    size (places, columns) is made, and no two threads write one row, so the bits are the same each time.

    Examples
    --------
    >>> rows = torch.tensor([[1.0, 2.0], [10.0, 20.0]])
    >>> sum_groups(rows, torch.tensor([0, 1, 1]), torch.tensor([2, 1]), torch.tensor([1.0, 1.0, 3.0]))
    tensor([[11., 22.],
            [30., 60.]])
    """
    offsets = torch.cumsum(sizes, 0) - sizes
    if len(offsets) == 0:
        return rows.new_zeros(0, rows.shape[1])
    return torch.nn.functional.embedding_bag(indices, rows, offsets, mode="sum", per_sample_weights=weights)
