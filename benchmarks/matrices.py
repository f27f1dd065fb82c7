"""Between the matrices that peers take and the numbered rows that ours takes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_matrix


def batch_of(entries: csr_matrix) -> pa.RecordBatch:
    """Return a matrix as ``user_id, item_id, strength``, ids being row and column numbers."""
    users = np.repeat(np.arange(entries.shape[0]), np.diff(entries.indptr))
    return pa.record_batch(
        {"user_id": users, "item_id": entries.indices.astype(np.int64), "strength": entries.data.astype(np.float64)}
    )


def in_order(n: int, numbers: NDArray[np.integer], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``n`` rows in order of their numbers; zeros where a number is not there."""
    result = np.zeros((n, rows.shape[1]), np.float32)
    result[numbers] = rows
    return result
