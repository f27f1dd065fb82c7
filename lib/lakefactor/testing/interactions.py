"""Small interactions with the shape of real ones, for tests of everything above the kernels."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def random_interactions(n_users: int, n_items: int, n_entries: int, seed: int, long_ids: bool = False) -> pa.Table:
    """Return distinct (user_id, item_id, strength) rows: popularity falls with the item number, strengths are 1 to 5.

    Parameters
    ----------
    n_users, n_items, n_entries : int
        Fewer entries come out where pairs repeat.
    seed : int
    long_ids : bool
        int64 ids, some beyond 2**31; else strings.
    """
    random = np.random.default_rng(seed)
    users = random.integers(n_users, size=n_entries)
    items = np.minimum((n_items * random.random(n_entries) ** 2).astype(np.int64), n_items - 1)
    pairs = np.unique(users * n_items + items)
    random.shuffle(pairs)
    users, items = pairs // n_items, pairs % n_items
    strengths = random.integers(1, 6, size=len(pairs)).astype(np.float64)
    return pa.table(
        {"user_id": _ids("u", users, long_ids), "item_id": _ids("i", items, long_ids), "strength": strengths}
    )


def _ids(prefix: str, numbers: NDArray[np.int64], long_ids: bool) -> pa.Array:
    if long_ids:
        return pa.array(numbers * 3_000_000_019 + 7)
    return pa.array([f"{prefix}-{number}" for number in numbers.tolist()])


def deal(table: pa.Table, size: int, seed: int = 0) -> list[list[pa.RecordBatch]]:
    """Deal rows to ``size`` ranks by user, in random order and in several batches each."""
    random = np.random.default_rng(seed)
    table = table.take(pa.array(random.permutation(table.num_rows)))
    users = table["user_id"].combine_chunks().dictionary_encode()
    codes = users.indices.to_numpy()
    names = users.dictionary.to_pylist()
    owner = np.array([sum(str(name).encode()) % size for name in names], dtype=np.int64)[codes]
    return [
        table.filter(pa.array(owner == proc_rank)).to_batches(max_chunksize=max(1, table.num_rows // 3))
        for proc_rank in range(size)
    ]
