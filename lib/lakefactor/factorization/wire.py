"""Factor rows as they travel between ranks: float32 as they are, or rounded to bfloat16.

Rounding is to nearest, ties to even, so one number changes by at most ``UNIT`` of itself, and a prediction p = x'y made
with a rounded y by at most ``UNIT * |x| |y|``. Only rows that travel are rounded: never those that stay on their rank,
nor the Gramian, nor what is stored.

A message is received into the tail of the memory where its rows will lie, and expanded there from front to back, so
that bfloat16 needs no memory of its own on the receiving side.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Wire = Literal["float32", "bfloat16"]

UNIT = 2.0**-8
"""Largest relative change of a number: half a unit in the last of 8 significand bits."""

_BLOCK = 1 << 20
"""Numbers converted at a time: bounds the work arrays."""


def pack(own: NDArray[Any], rows: NDArray[np.int32], wire: Wire) -> NDArray[Any]:
    """Return some rows, ready to be sent: float32 as they are, or the upper halves of rounded ones, uint16."""
    if wire == "float32":
        return own.take(rows, axis=0)
    packed = np.empty((len(rows), *own.shape[1:]), np.uint16)
    step = max(1, _BLOCK // max(1, packed[:1].size))
    for start in range(0, len(rows), step):
        packed[start : start + step] = to_bfloat16(own.take(rows[start : start + step], axis=0))
    return packed


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the bits of bfloat16 numbers, rounded to nearest, ties to even; the values must be finite.

    >>> [hex(bits) for bits in to_bfloat16(np.array([1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8], np.float32)).tolist()]
    ['0x3f80', '0x3f80', '0x3f82']
    """
    bits = np.ascontiguousarray(values).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)


def landing(rows: NDArray[Any], wire: Wire) -> NDArray[Any]:
    """Return the array that a message of these rows is received into: the rows, or the tail half of their memory."""
    if wire == "float32":
        return rows
    return rows.reshape(-1).view(np.uint16)[rows.size :].reshape(rows.shape)


def expand(rows: NDArray[np.float32]) -> None:
    """Turn rows that hold a bfloat16 message in the tail half of their memory into float32, in place."""
    halves = landing(rows, "bfloat16").reshape(-1)
    bits = rows.reshape(-1).view(np.uint32)
    # Block by block from the front: what a block overwrites lies before the halves that are still to be read.
    for start in range(0, bits.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        bits[block] = halves[block].astype(np.uint32) << np.uint32(16)
