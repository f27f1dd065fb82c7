"""Initial factors from a counter-based generator: no state, no order, no partition."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lakefactor.kernels.hashing import GAMMA, splitmix64
from lakefactor.types import Side

STANDARD_DEVIATION = 0.1
"""Of a factor row's length: each element has this over sqrt(k) (Rendle et al., RecSys 2022)."""

_SIDE_SALT = {"user": np.uint64(0x75736572), "item": np.uint64(0x6974656D)}  # the ASCII codes of the names
_UNIT = 2.0**-53
_BLOCK_ROWS = 1 << 14  # float64 work arrays of a block stay small beside the result


def initial_factors(keys: NDArray[np.uint64], seed: int, k: int, side: Side) -> NDArray[np.float32]:
    """Return normal factors that depend on (seed, side, key, column) alone.

    Parameters
    ----------
    keys : uint64 array, shape (n,)
        Stable number of each row, such as `hash_ids` of its id. Equal keys get equal factors.
    seed : int
        Any integer; taken modulo 2^64.
    k : int
        Columns, >= 1.
    side : {"user", "item"}
        Separates the streams of the two sides.

    Returns
    -------
    float32 array, shape (n, k)
        Normal with mean 0 and standard deviation 0.1 / sqrt(k), so that a row's squared length is about 0.01.

    Notes
    -----
    The stream is SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): element c of a row is the c-th output of the generator
    that starts from a mix of seed, side and key. Pairs of outputs become pairs of normals (Box and Muller 1958), in
    float64.

    Examples
    --------
    >>> keys = np.array([7, 8, 9], np.uint64)
    >>> whole = initial_factors(keys, seed=1, k=4, side="item")
    >>> bool((whole[1:] == initial_factors(keys[1:], seed=1, k=4, side="item")).all())
    True
    """
    start = splitmix64(splitmix64(np.array([seed % 2**64], np.uint64)) ^ _SIDE_SALT[side])
    state = splitmix64(np.asarray(keys, np.uint64) ^ start)
    factors = np.empty((len(state), k), np.float32)
    for first in range(0, len(state), _BLOCK_ROWS):
        block = slice(first, first + _BLOCK_ROWS)
        factors[block] = standard_normals(state[block], k) * (STANDARD_DEVIATION / np.sqrt(k))
    return factors


def standard_normals(state: NDArray[np.uint64], k: int) -> NDArray[np.float64]:
    """Return k standard normals for each 64-bit state, float64, shape (n, k); they depend on the state alone."""
    columns = np.arange((k + 1) // 2 * 2, dtype=np.uint64)
    # Output c of SplitMix64 is the mix of state + (c + 1) * gamma; splitmix64 adds the last gamma itself.
    bits = splitmix64(state[:, None] + columns * GAMMA) >> np.uint64(11)
    uniform = (bits.astype(np.float64) + 0.5) * _UNIT  # in (0, 1): its logarithm is finite
    radius = np.sqrt(-2.0 * np.log(uniform[:, 0::2]))
    angle = 2.0 * np.pi * uniform[:, 1::2]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2).reshape(len(state), len(columns))[:, :k]
