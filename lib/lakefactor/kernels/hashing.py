"""64-bit hashes of ids, the same in every process, on every machine and for every numbering."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from lakefactor.errors import InputError

GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the SplitMix64 output for each state: add the golden gamma, then mix (a bijection of 64 bits).

    References
    ----------
    Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

    Examples
    --------
    >>> [hex(x) for x in splitmix64(np.array([0], np.uint64)).tolist()]
    ['0xe220a8397b1dcdaf']
    """
    z = np.asarray(values, np.uint64) + GAMMA
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(nogil=True, cache=True)
def fnv1a64(offsets: NDArray[np.int64], data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the FNV-1a 64-bit hash of each byte string ``data[offsets[i]:offsets[i + 1]]``.

    References
    ----------
    Fowler, Noll, Vo, Eastlake, "The FNV non-cryptographic hash algorithm", RFC 9923.

    Examples
    --------
    >>> hex(fnv1a64(np.array([0, 1]), np.frombuffer(b"a", np.uint8))[0])
    '0xaf63dc4c8601ec8c'
    """
    hashes = np.empty(len(offsets) - 1, np.uint64)
    for i in range(len(hashes)):
        value = _FNV_OFFSET
        for position in range(offsets[i], offsets[i + 1]):
            value = (value ^ np.uint64(data[position])) * _FNV_PRIME
        hashes[i] = value
    return hashes


def hash_ids(ids: pa.Array[Any]) -> NDArray[np.uint64]:
    """Return a stable 64-bit hash of each id.

    Parameters
    ----------
    ids : pyarrow StringArray, LargeStringArray or Int64Array, shape (n,)
        Ids without nulls; slices are welcome.

    Returns
    -------
    uint64 array, shape (n,)
        SplitMix64 of an int64 (distinct ids never collide), SplitMix64 of the FNV-1a hash of a string's UTF-8 bytes
        (n distinct ids collide with probability about n^2 / 2^65).

    Raises
    ------
    InputError
        The array holds nulls or is of another type.

    Examples
    --------
    >>> ids = pa.array(["ann", "bob", "cy"])
    >>> bool((hash_ids(ids)[1:] == hash_ids(ids[1:])).all())
    True
    """
    if ids.null_count:
        raise InputError(f"hash_ids: found {ids.null_count} null ids among {len(ids)}; drop or reject those rows.")
    if pa.types.is_int64(ids.type):
        return splitmix64(_view(ids, 1, np.int64)[ids.offset : ids.offset + len(ids)].view(np.uint64))
    if pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type):
        offset_type = np.int32 if pa.types.is_string(ids.type) else np.int64
        offsets = _view(ids, 1, offset_type)[ids.offset : ids.offset + len(ids) + 1].astype(np.int64)
        if len(ids) == 0:
            return np.empty(0, np.uint64)
        return splitmix64(fnv1a64(offsets, _view(ids, 2, np.uint8)))
    raise InputError(f"hash_ids: found ids of type {ids.type}; they must be string, large_string or int64.")


def _view(array: pa.Array[Any], number: int, dtype: Any) -> NDArray[Any]:
    """Return a numpy view of one of the array's Arrow buffers (empty where Arrow holds none)."""
    buffer = array.buffers()[number]
    return np.empty(0, dtype) if buffer is None else np.frombuffer(buffer, dtype)
