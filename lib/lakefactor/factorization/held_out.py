"""Held-out interactions for early stopping: one of each user in a sample, never trained on.

A hash of the ids decides, so any number of ranks and any order of rows holds out the same interactions. Entries arrive
by user, so a rank sees all of a user's and needs nobody's help; measuring needs every rank's items, and moves only
the sampled users' factors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakefactor.comm import Communicator, exchange_parts
from lakefactor.factorization.fitting import Algorithm
from lakefactor.factorization.shard import Shard
from lakefactor.kernels import hash_ids
from lakefactor.kernels.hashing import splitmix64
from lakefactor.metrics import rank_metrics

SCORE_BYTES = 32 << 20
"""Memory for the scores of one block of users against a rank's items."""

_SALT = np.uint64(0x68656C646F7574)  # ASCII of "heldout": independent of the hashes that choose owners
_COLUMNS = ("user_id", "item_id", "held_out")


class HeldOut:
    """Splits a rank's entries, and measures on those held out.

    Parameters
    ----------
    share : float
        Share of users in the sample, in (0, 1]. A user with a single interaction keeps it.
    metric : str
        Such as ``ndcg_at_10``.

    Attributes
    ----------
    count : int
        Interactions held out, over all ranks; known after `prepare`.

    Examples
    --------
    >>> table = pa.table({"user_id": ["ann", "ann", "bob"], "item_id": ["x", "y", "x"], "strength": [1.0, 2.0, 3.0]})
    >>> held_out = HeldOut(1.0, "ndcg_at_10")
    >>> sum(batch.num_rows for batch in held_out.split(table.to_batches()))
    2
    """

    def __init__(self, share: float, metric: str) -> None:
        self._limit = np.uint64(min(int(share * 2.0**64), 2**64 - 1))
        name, _, cutoff = metric.partition("_at_")
        self._metric, self._k = name, int(cutoff)
        self._sample: pa.Table | None = None
        self.count = 0

    def split(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the entries to train on; those of sampled users come last, when all of them are known."""
        kept = []
        for batch in batches:
            sampled = splitmix64(hash_ids(batch.column(0)) ^ _SALT) <= self._limit
            if sampled.any():
                kept.append(batch.filter(pa.array(sampled)))
            yield batch.filter(pa.array(~sampled))
        if not kept:
            return
        entries = pa.Table.from_batches(kept).combine_chunks()
        held_out = _one_each(entries)
        self._sample = pa.table([entries.column(0), entries.column(1), pa.array(held_out)], names=list(_COLUMNS))
        yield from entries.filter(pa.array(~held_out)).to_batches()

    def prepare(self, comm: Communicator, shard: Shard) -> None:
        """Tell every rank about every sampled user, once, after the shard has been built."""
        blob = np.frombuffer(_to_bytes(self._sample), np.uint8)
        tables = [_from_bytes(part) for part in exchange_parts(comm, [blob] * comm.size)]
        users = pa.array([], pa.string())
        self._own_users = np.empty(0, np.int64)
        seen_users, seen_items, true_users, true_items = [], [], [], []
        first = 0
        for peer, table in enumerate(tables):
            if table is None:
                continue
            users = table["user_id"].combine_chunks().dictionary_encode()
            codes = users.indices.to_numpy().astype(np.int64) + first
            first += len(users.dictionary)
            if peer == comm.proc_rank:
                self._own_users = _positions(users.dictionary, shard.rows["user"].ids)
            items = _positions(table["item_id"].combine_chunks(), shard.rows["item"].ids)
            held_out = table["held_out"].to_numpy()
            here = items >= 0
            seen_users.append(codes[here & ~held_out])
            seen_items.append(items[here & ~held_out])
            true_users.append(codes[here & held_out])
            true_items.append(items[here & held_out])
            self.count += int(held_out.sum())
        self._n_users = first
        order = np.argsort(np.concatenate([*seen_users, np.empty(0, np.int64)]), kind="stable")
        self._seen = (
            np.concatenate([*seen_users, np.empty(0, np.int64)])[order],
            np.concatenate([*seen_items, np.empty(0, np.int64)])[order],
        )
        self._true = (
            np.concatenate([*true_users, np.empty(0, np.int64)]),
            np.concatenate([*true_items, np.empty(0, np.int64)]),
        )

    def measure(self, comm: Communicator, algorithm: Algorithm) -> float:
        """Return the mean metric over the sampled users who have a held-out item; 0 where there is none.

        The held-out item competes with every item that the user is not trained on. A tie counts against it.
        """
        users = np.concatenate(
            exchange_parts(comm, [np.ascontiguousarray(algorithm.factors("user")[self._own_users])] * comm.size)
        )
        items, bias = algorithm.factors("item"), algorithm.bias("item")
        target = np.zeros(self._n_users)
        who, what = self._true
        scores = np.einsum("ij,ij->i", users[who], items[what], dtype=np.float64) + bias[what]
        target[who] = scores
        found = np.zeros(self._n_users)
        found[who] = 1
        target, found = comm.all_reduce_sum(np.stack([target, found]))
        ahead = comm.all_reduce_sum(self._ahead(users, items, bias, target))
        tested = found > 0
        positions = np.where(tested, ahead, np.inf)[tested]
        if not self.count:
            return 0.0
        return float(np.nansum(self._values(positions)) / self.count)

    def _ahead(self, users: NDArray, items: NDArray, bias: NDArray, target: NDArray) -> NDArray[np.float64]:
        """Return how many of this rank's items come before each sampled user's held-out item."""
        ahead = np.zeros(self._n_users)
        step = max(1, SCORE_BYTES // (8 * max(1, len(items))))
        seen_users, seen_items = self._seen
        who, what = self._true
        for start in range(0, self._n_users, step):
            stop = min(start + step, self._n_users)
            scores = users[start:stop].astype(np.float64) @ items.T.astype(np.float64) + bias
            some = slice(*np.searchsorted(seen_users, [start, stop]))
            scores[seen_users[some] - start, seen_items[some]] = -np.inf
            here = (who >= start) & (who < stop)
            scores[who[here] - start, what[here]] = -np.inf
            # Scores are summed in another order than the target's: what differs by rounding alone is a tie.
            close = 1e-9 * (1 + np.abs(target[start:stop]))
            ahead[start:stop] = (scores >= (target[start:stop] - close)[:, None]).sum(axis=1)
        return ahead

    def _values(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the metric of lists whose one relevant item has so many items ahead."""
        ranked = np.tile(np.arange(1, self._k + 1, dtype=np.int32), (len(positions), 1))
        within = np.flatnonzero(positions < self._k)
        ranked[within, positions[within].astype(np.int64)] = 0  # column 0 is the held-out item
        n = len(positions)
        return rank_metrics(ranked, np.arange(n + 1), np.zeros(n, np.int32), [self._k])[self._metric, self._k]


def _one_each(entries: pa.Table) -> NDArray[np.bool_]:
    """Mark one entry of each user with two or more: the one with the smallest hash of both ids."""
    users = entries.column(0).combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    keys = splitmix64(
        hash_ids(entries.column(0).combine_chunks()) ^ hash_ids(entries.column(1).combine_chunks()) ^ _SALT
    )
    order = np.lexsort((keys, users))
    first = np.ones(len(order), np.bool_)
    first[1:] = users[order][1:] != users[order][:-1]
    several = np.bincount(users)[users] > 1
    marked = np.zeros(len(order), np.bool_)
    marked[order[first]] = True
    return marked & several


def _positions(ids: pa.Array, among: pa.Array) -> NDArray[np.int64]:
    """Return the row of each id, -1 where it is not there."""
    if not len(among) or not len(ids):
        return np.full(len(ids), -1, np.int64)
    return pc.fill_null(pc.index_in(ids, value_set=among), -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _to_bytes(table: pa.Table | None) -> bytes:
    if table is None:
        return b""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _from_bytes(data: NDArray[np.uint8]) -> pa.Table | None:
    if not len(data):
        return None
    with pa.ipc.open_stream(pa.py_buffer(data.tobytes())) as reader:
        return reader.read_all()
