"""Types and dtypes that every layer shares."""

from __future__ import annotations

from typing import Literal

import numpy as np

FACTOR_DTYPE = np.float32
"""Factors, biases, weights and targets; sums and objectives are float64."""

INDEX_DTYPE = np.int32
"""Row numbers within one rank; a rank holds fewer than 2**31 rows of a side."""

INDPTR_DTYPE = np.int64
"""CSR row pointers; a rank may hold more than 2**31 entries."""

Side = Literal["user", "item"]
SIDES: tuple[Side, Side] = ("user", "item")


def other(side: Side) -> Side:
    """Return the opposite side.

    >>> other("user")
    'item'
    """
    return "item" if side == "user" else "user"
