"""One rank's part of the interactions, in both orientations.

Entries arrive at the rank that owns their user (Spark hashes the user id). Everything else is found here, without a
numbering job, a join or a look-up table of ids anywhere: the ranks tell each other once which items they hold, and
with the same messages learn

* which rank owns each item, and that owner's row number for it;
* the transposed entries, so that the item side has its own CSR;
* which factor rows to send to whom before every half-step (the exchange plan).

Example: two ranks, entries ``(ann, x, 5) (ann, y, 3) (bob, x, 1)``; rank 0 owns ann and y, rank 1 owns bob and x.
Rank 0 needs the rows of x and y for its user half-step: it receives x from rank 1 and y from itself, so its source
panel is ``[y, x]`` and ann's CSR row is ``columns [0, 1], strengths [3, 5]``. Rank 1 solves x from ann and bob: its
panel is ``[ann, bob]`` and x's row is ``columns [0, 1], strengths [5, 1]``.

Rows of a side are ordered by (entries descending, id), columns by (owner, entries here descending, id): an order that
depends on the data and on W, and never on the order in which the entries came in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakefactor.comm import Communicator, all_gather, exchange_parts
from lakefactor.errors import InputError
from lakefactor.kernels import build_csr, hash_ids
from lakefactor.types import INDEX_DTYPE, Side

NOTHING_TO_TRAIN_ON = "there are no interactions to train on; ingest events first (lakefactor ingest FILE)"


@dataclass(frozen=True)
class Rows:
    """The rows of one side that a rank owns.

    Attributes
    ----------
    ids : pyarrow Array, length n
        Ids of the rows, ordered by (entries descending, id).
    indptr : int64 ndarray, shape (n + 1,)
    indices : int32 ndarray, shape (nnz,)
        Columns: row numbers of the source panel that :meth:`Plan.fetch` brings, ascending within a row.
    strengths : float32 ndarray, shape (nnz,)
    """

    ids: pa.Array
    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    strengths: NDArray[np.float32]

    @property
    def n_entries(self) -> NDArray[np.int64]:
        """Entries of each row, int64, shape (n,)."""
        return np.diff(self.indptr)


@dataclass(frozen=True)
class Plan:
    """Which of a rank's own rows to send to whom, so that every rank gets exactly the rows its entries need.

    Attributes
    ----------
    send_rows : int32 ndarray
        Own row numbers, those for rank 0 first.
    send_counts, recv_counts : int64 ndarray, shape (W,)
    """

    send_rows: NDArray[np.int32]
    send_counts: NDArray[np.int64]
    recv_counts: NDArray[np.int64]

    def fetch(self, comm: Communicator, own: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the source panel, float32, shape (sum(recv_counts), k), from every rank's ``own`` factor rows."""
        return comm.exchange(own[self.send_rows], self.send_counts, self.recv_counts)


@dataclass(frozen=True)
class Shard:
    """Both orientations of one rank.

    ``plans[side]`` moves factor rows *of that side* to the ranks that need them as source.
    """

    rows: dict[Side, Rows]
    plans: dict[Side, Plan]


def owner_of(ids: pa.Array, size: int) -> NDArray[np.int64]:
    """Return the owning rank of each id, int64, in [0, size): computed from the id alone, nothing looked up."""
    return (hash_ids(ids) % np.uint64(size)).astype(np.int64)


def build_shard(comm: Communicator, batches: Iterable[pa.RecordBatch]) -> Shard:
    """Build a rank's shard from the entries of the users that it owns.

    Parameters
    ----------
    comm : Communicator
    batches : iterable of pyarrow RecordBatch
        Columns: user id, item id (string or int64), strength (floating point); each (user, item) pair once.

    Raises
    ------
    InputError
        A pair occurs twice, or no rank has an entry.
    """
    user_ids, users, item_ids, items, strengths = _encode(batches)
    total = comm.all_reduce_sum(np.array([len(strengths)], dtype=np.float64))[0]
    if total == 0:
        raise InputError(NOTHING_TO_TRAIN_ON)
    user_order = _order(user_ids, users)
    user_ids, users = user_ids.take(pa.array(user_order)), _invert(user_order)[users]

    item_owner = owner_of(item_ids, comm.size)
    columns_order = _order(item_ids, items, item_owner)
    item_ids, item_owner = item_ids.take(pa.array(columns_order)), item_owner[columns_order]
    columns = _invert(columns_order)[items].astype(INDEX_DTYPE)
    items_per_owner = np.bincount(item_owner, minlength=comm.size)

    wanted = _send_ids(comm, item_ids, items_per_owner)
    own_ids, own_rows = _unify(wanted, item_ids.type)
    item_rows, user_plan, order = _transpose(comm, users, columns, strengths, items_per_owner, own_ids, own_rows)
    item_plan = Plan(
        send_rows=_invert(order)[np.concatenate(own_rows)].astype(INDEX_DTYPE),
        send_counts=np.array([len(rows) for rows in own_rows], dtype=np.int64),
        recv_counts=items_per_owner,
    )
    user_rows = _rows("user", user_ids, users, columns, strengths)
    return Shard(rows={"user": user_rows, "item": item_rows}, plans={"user": user_plan, "item": item_plan})


def _encode(batches: Iterable[pa.RecordBatch]) -> tuple[pa.Array, NDArray, pa.Array, NDArray, NDArray[np.float32]]:
    """Replace ids by codes, batch by batch, so that no more than one batch of plain ids is held."""
    coded: tuple[list[pa.Array], list[pa.Array]] = ([], [])
    strengths = []
    for batch in batches:
        for side in (0, 1):
            coded[side].append(batch.column(side).dictionary_encode())
        strengths.append(batch.column(2).to_numpy(zero_copy_only=False).astype(np.float32))
    ids, codes = zip(*(_unify_codes(chunks) for chunks in coded), strict=True)
    return ids[0], codes[0], ids[1], codes[1], np.concatenate([np.empty(0, np.float32), *strengths])


def _unify_codes(chunks: list[pa.Array]) -> tuple[pa.Array, NDArray[np.int64]]:
    if not chunks:
        return pa.array([], pa.string()), np.empty(0, np.int64)
    unified = pa.chunked_array(chunks).unify_dictionaries().combine_chunks()
    if isinstance(unified, pa.ChunkedArray):
        unified = unified.chunk(0) if unified.num_chunks else pa.array([], unified.type)
    return unified.dictionary, unified.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _order(ids: pa.Array, codes: NDArray[np.int64], owner: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Return the permutation that sorts ids by (owner, entries descending, id)."""
    counts = np.bincount(codes, minlength=len(ids))
    columns = {"count": pa.array(counts), "id": ids}
    keys = [("count", "descending"), ("id", "ascending")]
    if owner is not None:
        columns["owner"] = pa.array(owner)
        keys.insert(0, ("owner", "ascending"))
    return pc.sort_indices(pa.table(columns), sort_keys=keys).to_numpy().astype(np.int64)


def _invert(order: NDArray[np.int64]) -> NDArray[np.int64]:
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return inverse


def _send_ids(comm: Communicator, ids: pa.Array, per_owner: NDArray[np.int64]) -> list[pa.Array]:
    """Send to each rank the ids that it owns of ``ids`` (ordered by owner); return what each rank sent here."""
    starts = np.cumsum(per_owner) - per_owner
    parts = [_to_bytes(ids.slice(start, count)) for start, count in zip(starts, per_owner, strict=True)]
    return [_from_bytes(part) for part in exchange_parts(comm, parts)]


def _to_bytes(ids: pa.Array) -> NDArray[np.uint8]:
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([ids], names=["id"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return np.frombuffer(sink.getvalue(), dtype=np.uint8)


def _from_bytes(data: NDArray[np.uint8]) -> pa.Array:
    with pa.ipc.open_stream(pa.py_buffer(data.tobytes())) as reader:
        return reader.read_next_batch().column(0)


def _unify(wanted: list[pa.Array], id_type: pa.DataType) -> tuple[pa.Array, list[NDArray[np.int64]]]:
    """Merge the id lists of all ranks; return the distinct ids and, per rank, the number of each id of its list."""
    # A rank without entries does not know the type of the ids; its lists are empty.
    known = next((ids.type for ids in wanted if len(ids)), id_type)
    chunks = [ids if len(ids) else pa.array([], known) for ids in wanted]
    ids, codes = _unify_codes([chunk.dictionary_encode() for chunk in chunks])
    return ids, np.split(codes, np.cumsum([len(chunk) for chunk in chunks])[:-1])


def _transpose(
    comm: Communicator,
    users: NDArray[np.int64],
    columns: NDArray[np.int32],
    strengths: NDArray[np.float32],
    items_per_owner: NDArray[np.int64],
    own_ids: pa.Array,
    own_rows: list[NDArray[np.int64]],
) -> tuple[Rows, Plan, NDArray[np.int64]]:
    """Bring every entry to its item's owner; return the item rows, the plan for user factors, and the row order."""
    ends = np.cumsum(items_per_owner)
    owner = np.repeat(np.arange(comm.size), items_per_owner)[columns]
    n_users = int(users.max()) + 1 if len(users) else 0
    parts: dict[str, list[NDArray]] = {"item": [], "user": [], "strength": []}
    needed = []
    for peer in range(comm.size):
        mine = np.flatnonzero(owner == peer)
        touched = np.zeros(n_users, dtype=bool)
        touched[users[mine]] = True
        needed.append(np.flatnonzero(touched).astype(INDEX_DTYPE))
        position = np.cumsum(touched, dtype=INDEX_DTYPE) - INDEX_DTYPE(1)
        parts["item"].append(columns[mine] - INDEX_DTYPE(ends[peer] - items_per_owner[peer]))
        parts["user"].append(position[users[mine]])
        parts["strength"].append(strengths[mine])
    received = {name: exchange_parts(comm, arrays) for name, arrays in parts.items()}
    send_counts = np.array([len(rows) for rows in needed], dtype=np.int64)
    recv_counts = all_gather(comm, send_counts)[:, comm.proc_rank]
    plan = Plan(np.concatenate(needed), send_counts, recv_counts)

    starts = np.cumsum(recv_counts) - recv_counts
    rows = np.concatenate([own_rows[peer][received["item"][peer]] for peer in range(comm.size)])
    panel = np.concatenate([received["user"][peer] + INDEX_DTYPE(starts[peer]) for peer in range(comm.size)])
    order = _order(own_ids, rows)
    own_ids = own_ids.take(pa.array(order))
    return _rows("item", own_ids, _invert(order)[rows], panel, np.concatenate(received["strength"])), plan, order


def _rows(side: Side, ids: pa.Array, rows: NDArray, columns: NDArray, strengths: NDArray[np.float32]) -> Rows:
    indptr, indices, values = build_csr(rows.astype(INDEX_DTYPE), columns, strengths, len(ids))
    repeated = np.flatnonzero(indices[1:] == indices[:-1]) + 1
    repeated = repeated[~np.isin(repeated, indptr)]
    if len(repeated):
        first = ids[int(np.searchsorted(indptr, repeated[0], side="right")) - 1]
        raise InputError(
            f"interactions hold {len(repeated)} repeated (user, item) pairs, the first of {side} {first}; "
            "each pair must occur once: rebuild the table with 'lakefactor interactions'"
        )
    return Rows(ids, indptr, indices, values)
