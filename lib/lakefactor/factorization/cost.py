"""What a training costs a rank in bytes and flops, as formulas of counts; docs/scaling.md applies them.

benchmarks/scaling.py holds the byte formulas against measurement. Rows are float32, 4 k bytes; W ranks own rows by a
hash.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

BLOCK_BYTES = 16 << 20
"""Bounds the work array of `kernels.gramian`, and those of the sums of a split row."""

INITIAL_ROWS = 1 << 14
"""Rows whose initial factors are drawn at a time, with five float64 work arrays."""

PANEL_BYTES = 1 << 20
"""Panel of one thread of a conjugate gradient half-step."""


def needed_rows(degrees: ArrayLike, size: int) -> float:
    """Return how many source rows a rank needs, its own ones counted: sum over rows of 1 - (1 - 1/W)^degree.

    Each entry of a source row lies on a target that is owned by any of the W ranks alike.

    >>> needed_rows([1, 1, 10_000], size=2)
    2.0
    """
    degrees = np.asarray(degrees, dtype=np.float64)
    if size == 1:
        return float(np.count_nonzero(degrees))
    return float(-np.expm1(degrees * np.log1p(-1 / size)).sum())


def fetched_bytes(degrees: ArrayLike, size: int, k: int, number_bytes: int = 4) -> float:
    """Return the bytes that a rank receives (and on average sends) in one half-step, the Gramian's sum aside."""
    return needed_rows(degrees, size) * (size - 1) / size * k * number_bytes


def sum_bytes(size: int, k: int) -> float:
    """Return the bytes that a rank sends to sum one k x k float64 Gramian by a ring."""
    return 2 * (size - 1) / size * 8 * k * k


def flops(entries: float, rows: float, k: int, steps: int = 0) -> float:
    """Return the operations of one half-step: exact, or ``steps`` of conjugate gradients.

    >>> f"{flops(entries=1e9, rows=1e7, k=64):.3g}"  # 4096e9 + 1e7 * (64^3 / 3 + 64^2)
    '5.01e+12'
    """
    if steps:
        return (steps + 1) * (4 * k * entries + 2 * k * k * rows)
    return entries * k * k + rows * k**3 / 3 + rows * k * k


def shuffle_bytes(entries: float, id_bytes: float) -> float:
    """Return the bytes of the one Spark shuffle: two ids and a strength per entry, before compression."""
    return entries * (2 * id_bytes + 4)


def build_bytes(entries: float) -> float:
    """Return the bytes that the ranks exchange once for the transposed entries, ids aside: all but 1/W travel."""
    return 8 * entries


def fit_bytes(
    entries: float, own: tuple[float, float], panel: tuple[float, float], gathered: tuple[float, float], k: int,
    threads: int = 1, staged: bool = False, split: float = 0,
) -> float:  # fmt: skip
    """Return the peak memory (bytes) that a fit takes on one rank beside its shard.

    Parameters
    ----------
    entries : float
        Entries of this rank; as many on either side.
    own : (users, items)
        Rows that it owns.
    panel, gathered : (users, items)
        Longest panel and send buffers, in rows, when that side is the source (none at W = 1). Under a budget of B bytes
        a panel has at most B / (4 k) rows.
    k : int
        Columns of the factors.
    threads : int
        0 leaves out the kernels' work arrays, which numba allocates where tracemalloc cannot see them.
    staged : bool
        Entries get new column numbers where a half-step has more than one stage.
    split : float
        Most entries of one split row whose source rows this rank owns.

    Notes
    -----
    Weights and targets of both sides (16 bytes an entry), 4 more for each side's new column numbers; factors; 24 bytes
    a row of pointers and regularization; and what is only needed at times: the constant of the objective before there
    are factors (float64 targets and their squares); the work arrays of the initial factors; or a half-step's panel,
    with the send buffers and the float64 block of the Gramian or of a split row (twice) while the rows are on their
    way, and with the kernel's work arrays after.

    Not counted: what a solver keeps per entry of its longest row (`kernels.half_step`), padded copies where k is no
    multiple of 16, the shifted targets of biased models (4 bytes an entry), and gloo's own buffers.
    """
    numbers = entries * (16 + 8 * staged)
    rows = sum(own) * (4 * k + 24)
    work = threads * kernel_bytes(k)
    half_steps = [
        4 * k * p + max(work, 4 * k * g + max(min(8 * k * n, BLOCK_BYTES), min(16 * k * split, BLOCK_BYTES)))
        for p, g, n in zip(panel, gathered, own, strict=True)
    ]
    initial = 40 * k * min(own[1], INITIAL_ROWS)
    return numbers + max(20 * entries, rows + max(initial, *half_steps))


def kernel_bytes(k: int) -> float:
    """Return the work arrays of one thread of a half-step: panel, or 128 rows of it and three matrices.

    >>> kernel_bytes(64) == 2**20, kernel_bytes(1024)
    (True, 13107200)
    """
    return max(PANEL_BYTES, 4 * 128 * k + 12 * k * k)


def shard_bytes(entries: float, own: tuple[float, float], id_bytes: float) -> float:
    """Return the memory (bytes) of one rank's shard: 8 bytes an entry and side, pointers and ids."""
    return 16 * entries + sum(own) * (8 + id_bytes + 4)
