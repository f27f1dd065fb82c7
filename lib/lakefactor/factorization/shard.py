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
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakefactor.comm import Communicator, all_gather, sum_over_ranks
from lakefactor.errors import InputError
from lakefactor.factorization.coding import encode, invert, order_ids, reorder, send_ids, unify
from lakefactor.factorization.entries import count_peers, merge_runs, number_in_place, turn
from lakefactor.factorization.plan import Plan, common_rows, make_plan
from lakefactor.kernels import build_csr, hash_ids
from lakefactor.kernels.csr import Csr
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
        A pair occurs twice, a strength is no number that float32 can hold, or no rank has an entry.
    """
    (user_ids, users), (item_ids, columns), strengths = encode(batches)
    strange = np.flatnonzero(~np.isfinite(strengths))
    entries, refused = comm.all_reduce_sum(np.array([len(strengths), len(strange)], dtype=np.float64))
    if entries == 0:
        raise InputError(NOTHING_TO_TRAIN_ON)
    if refused:
        entry = int(strange[0]) if len(strange) else -1
        first = f", the first of user {user_ids[int(users[entry])]}" if len(strange) else ""
        raise InputError(
            f"interactions hold {int(refused)} strengths that are NaN, null, or beyond 3.4e38{first}; "
            "correct the events, or rebuild the table with 'lakefactor interactions'"
        )
    user_ids, users = reorder(order_ids(user_ids, np.bincount(users, minlength=len(user_ids))), user_ids, users)
    owners = owner_of(item_ids, comm.size)
    item_ids, columns = reorder(
        order_ids(item_ids, np.bincount(columns, minlength=len(item_ids)), owners), item_ids, columns
    )
    per_owner = np.bincount(owners, minlength=comm.size)

    own_ids, wanted = unify(send_ids(comm, item_ids, per_owner), item_ids.type)
    item_plan, arrival = make_plan(comm, wanted, len(own_ids))
    if comm.size > 1:
        columns = invert(arrival)[columns]
    csr = build_csr(users, columns, strengths, len(user_ids))
    del users, columns, strengths
    _refuse_repeated(comm, user_ids, csr)
    own_rows = np.concatenate(item_plan.served(comm.proc_rank))
    item_rows, user_plan, new_row = _transpose(comm, csr, per_owner, own_ids, own_rows, [len(rows) for rows in wanted])
    item_plan = replace(item_plan, common=new_row[item_plan.common], send_rows=new_row[item_plan.send_rows])
    return Shard(rows={"user": Rows(user_ids, *csr), "item": item_rows}, plans={"user": user_plan, "item": item_plan})


def _refuse_repeated(comm: Communicator, user_ids: pa.Array, csr: Csr) -> None:
    """Raise InputError on every rank where any rank holds a pair twice: columns ascend, so such entries are neighbours.

    The user side shows them all, as both entries of a pair are its user's.
    """
    indptr, indices, _ = csr
    repeated = np.flatnonzero(indices[1:] == indices[:-1]) + 1
    rows = np.searchsorted(indptr, repeated, side="right") - 1
    within = repeated > indptr[rows]
    found = int(np.count_nonzero(within))
    if total := int(sum_over_ranks(comm, found)):
        first = f", the first of user {user_ids[int(rows[within][0])]}" if found else ""
        raise InputError(
            f"interactions hold {total} repeated (user, item) pairs{first}; each pair must occur once: "
            "rebuild the table with 'lakefactor interactions'"
        )


def _transpose(
    comm: Communicator,
    csr: Csr,
    per_owner: NDArray[np.int64],
    own_ids: pa.Array,
    own_rows: NDArray[np.int32],
    wanted: list[int],
) -> tuple[Rows, Plan, NDArray[np.int32]]:
    """Bring every entry to its item's owner.

    Parameters
    ----------
    csr : Csr
        User rows; columns are items, ordered by owner.
    per_owner : int64 ndarray, shape (W,)
        Columns of each owner.
    own_ids : pyarrow Array
        Items that this rank owns, in any order.
    own_rows : int32 ndarray
        For each rank's columns that are owned here, in that rank's order: number within ``own_ids``.
    wanted : list of W int
        How many of ``own_rows`` are each rank's.

    Returns
    -------
    Rows
        Item rows.
    Plan
        Moves user factors to the ranks that need them for their item rows.
    int32 ndarray
        Row number of each of ``own_ids``.
    """
    me, ends = comm.proc_rank, np.cumsum(per_owner)
    n_users = len(csr[0]) - 1
    common = common_rows(count_peers(csr[0], csr[1], ends, me), comm.size - 1)
    others = np.ones(n_users, bool)
    others[common] = False
    users = np.concatenate([common, np.flatnonzero(others).astype(INDEX_DTYPE)])
    runs, sources, strengths = turn(*csr, users, int(ends[-1]))

    served, rest = [], []
    for peer, (begin, end) in enumerate(zip(runs[ends - per_owner], runs[ends], strict=True)):
        needed = number_in_place(sources[begin:end], n_users)
        served.append(len(needed))
        rest.append(users[needed] if peer == me else users[needed[len(common) :]])
    recv_common, recv_counts = _from_peers(comm, np.full(comm.size, len(common)), np.array(served))
    recv_common[me] = 0
    rest_counts = np.array([len(rows) for rows in rest])
    plan = Plan(common, np.concatenate(rest), rest_counts, recv_common, recv_counts)

    lengths = comm.exchange(np.diff(runs), per_owner, np.array(wanted))
    sent = np.diff(runs[np.concatenate([[0], ends])])
    (received,) = _from_peers(comm, sent)
    sources = comm.exchange(sources, sent, received)
    strengths = comm.exchange(strengths, sent, received)
    sources += np.repeat((np.cumsum(recv_counts) - recv_counts).astype(INDEX_DTYPE), received)
    counts = np.zeros(len(own_ids), np.int64)
    np.add.at(counts, own_rows, lengths)
    order = order_ids(own_ids, counts)
    new_row = invert(order)
    indptr = np.concatenate([[0], np.cumsum(counts[order])])
    indices, values = merge_runs(indptr, new_row[own_rows], lengths, sources, strengths)
    return Rows(own_ids.take(pa.array(order)), indptr, indices, values), plan, new_row


def _from_peers(comm: Communicator, *numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what each rank's ``numbers`` say for this rank: shape (len(numbers), W)."""
    return all_gather(comm, np.stack(numbers))[:, :, comm.proc_rank].T.copy()
