"""A system's entries as padded rows on a torch device, rows of about equal length together.

A bucket holds all rows whose number of entries rounds up to the same length, so it is one dense array that batched
products take as it is. There are four lengths to an octave: at most 8 entries or a quarter of a row are padding. A
padding entry has weight and target 0 and names the source row of the row's own first entry, so that it adds exactly
nothing, and nothing of another row where source factors are not finite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lakefactor.kernels.system import System

SEGMENT = 2048
"""Entries summed in one product; longer rows are cut into segments, whose partial sums are added. Keeps rounding small,
and keeps a device busy that would else have one long sum to do."""

_STEP = 8
"""Lengths are multiples of this: what the matrix units of a GPU want."""


@dataclass(frozen=True)
class Bucket:
    """Rows of one padded length.

    Attributes
    ----------
    rows : int64 Tensor, shape (n,)
        Their numbers in the system, longest first.
    indices : int32 Tensor, shape (n, length)
    weights, targets : float32 Tensor, shape (n, length)
    """

    rows: Tensor
    indices: Tensor
    weights: Tensor
    targets: Tensor

    @property
    def length(self) -> int:
        """Padded number of entries of each row."""
        return self.indices.shape[1]

    def some(self, start: int, stop: int) -> Bucket:
        """Return a view of some of the rows."""
        part = slice(start, stop)
        return Bucket(self.rows[part], self.indices[part], self.weights[part], self.targets[part])

    def segments(self) -> Bucket:
        """Return a view of the only row as one row for each of its segments."""
        cut = (segments_of(self.length), -1)
        number = self.rows.expand(cut[0])
        return Bucket(number, self.indices.view(cut), self.weights.view(cut), self.targets.view(cut))


def segments_of(length: int) -> int:
    """Return into how many equal segments of at most `SEGMENT` entries a padded row is cut.

    >>> segments_of(8), segments_of(SEGMENT), segments_of(SEGMENT + SEGMENT // 4), segments_of(7 * SEGMENT)
    (1, 1, 2, 8)
    """
    return 1 << max(0, -(-length // SEGMENT) - 1).bit_length()


def padded(degrees: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each degree rounded up to a multiple of 8, and of an eighth of the next power of two.

    >>> padded(np.array([1, 8, 9, 65, 100, 129])).tolist()
    [8, 8, 16, 80, 112, 160]
    """
    octave = np.ceil(np.log2(np.maximum(degrees, 1))).astype(np.int64)
    step = np.maximum(_STEP, 1 << np.maximum(octave - 3, 0))
    return -(-degrees // step) * step


def buckets(system: System, device: torch.device) -> list[Bucket]:
    """Return all rows that have entries, in buckets of falling length.

    Notes
    -----
    12 bytes of the device's memory for each entry, padding included, and 8 for each row. O(nnz) once.
    """
    degrees = np.diff(system.indptr)
    lengths = padded(degrees)
    order = np.argsort(-degrees, kind="stable")
    order = order[: np.count_nonzero(degrees)]
    starts = np.flatnonzero(np.diff(lengths[order], prepend=-1))
    result = []
    for rows in np.split(order, starts[1:]) if len(order) else []:
        position = np.arange(lengths[rows[0]])
        real = position < degrees[rows, None]
        entries = system.indptr[rows, None] + np.where(real, position, 0)
        arrays = (
            rows,
            system.indices[entries],
            np.where(real, system.weights[entries], np.float32(0)),
            np.where(real, system.targets[entries], np.float32(0)),
        )
        result.append(Bucket(*(torch.from_numpy(array).to(device) for array in arrays)))
    return result
