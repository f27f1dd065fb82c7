"""The communicator of a single process."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Local:
    """A world of one rank: sums are copies, an exchange is a copy."""

    proc_rank = 0
    size = 1

    def all_reduce_sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a copy."""
        return values.copy()

    def exchange(self, rows: NDArray, send_counts: NDArray[np.int64], recv_counts: NDArray[np.int64]) -> NDArray:
        """Return a copy."""
        return rows.copy()
