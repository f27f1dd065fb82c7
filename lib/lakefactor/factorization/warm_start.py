"""Warm start: the live model's factor rows, brought to the ranks that own them.

The rows come in the same stream as the interactions, so Spark reads the tables and shuffles them as it does the rest:
``user_id, item_id, strength, factors, bias``, with a null item for a user's factors and a null user for an item's.
Users' rows arrive at their owners. The owner of an item is known to Python only, so the ranks pass those on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakefactor.comm import Communicator, exchange_parts, sum_over_ranks
from lakefactor.errors import InputError
from lakefactor.factorization.fitting import Training
from lakefactor.factorization.shard import Shard, owner_of
from lakefactor.types import FACTOR_DTYPE, SIDES, Side


class WarmRows:
    """Factor rows on their way into a training.

    Parameters
    ----------
    rank : int
        Length of a factor row.
    biased : bool
        Whether the state's last column is the row's bias.
    """

    def __init__(self, rank: int, biased: bool) -> None:
        self._rank = rank
        self._biased = biased
        self._rows: dict[Side, list[pa.Table]] = {side: [] for side in SIDES}

    def split(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Keep factor rows, yield interactions (``user_id, item_id, strength``)."""
        for batch in batches:
            is_entry = batch.column(3).is_null()
            if is_entry.false_count:
                rows = pa.Table.from_batches([batch.filter(pc.invert(is_entry))])
                for side, ids, missing in (("user", 0, 1), ("item", 1, 0)):
                    some = rows.filter(rows.column(missing).is_null())
                    table = pa.table(
                        [some.column(ids), some.column(3), some.column(4)], names=["id", "factors", "bias"]
                    )
                    self._rows[side].append(table)  # type: ignore[index]
            yield batch.filter(is_entry).select([0, 1, 2])

    def fill(self, comm: Communicator, shard: Shard, training: Training) -> dict[Side, int]:
        """Put the factors into the state; rows without any keep their cold start.

        Returns
        -------
        dict
            Rows of each side that were filled, over all ranks.

        Raises
        ------
        InputError
            A factor row has another length than the model's rank.
        """
        filled = {}
        for side in SIDES:
            n = 0
            tables = self._rows[side] if side == "user" else _to_owners(comm, self._rows[side])
            for table in tables:
                n += self._place(side, table, shard.rows[side].ids, training.state[side])
            filled[side] = int(sum_over_ranks(comm, n))
        return filled

    def _place(self, side: Side, table: pa.Table, ids: pa.Array, arrays: dict[str, NDArray]) -> int:
        if not len(ids) or not table.num_rows:
            return 0
        rows = pc.index_in(table["id"].combine_chunks(), value_set=ids)
        known = rows.is_valid()
        table, places = table.filter(known), rows.drop_null().to_numpy()
        values = table["factors"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        if len(values) != len(places) * self._rank:
            raise InputError(
                f"the live model's {side} factors are not of length {self._rank}; "
                "set model.rank to the live model's, or train.warm_start to false"
            )
        arrays["factors"][places, : self._rank] = values.reshape(-1, self._rank).astype(FACTOR_DTYPE)
        bias = table["bias"].to_numpy().astype(FACTOR_DTYPE)
        if self._biased:
            arrays["factors"][places, self._rank] = bias
        elif "bias" in arrays:
            arrays["bias"][places] = bias
        return len(places)


def _to_owners(comm: Communicator, tables: list[pa.Table]) -> list[pa.Table]:
    """Send each row to the rank that owns its id."""
    parts = [np.empty(0, np.uint8)] * comm.size
    if tables:
        table = pa.concat_tables(tables).combine_chunks()
        owner = owner_of(table["id"].combine_chunks(), comm.size)
        parts = [_to_bytes(table.filter(pa.array(owner == peer))) for peer in range(comm.size)]
    return [_from_bytes(part) for part in exchange_parts(comm, parts) if len(part)]


def _to_bytes(table: pa.Table) -> NDArray[np.uint8]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return np.frombuffer(sink.getvalue(), np.uint8)


def _from_bytes(data: NDArray[np.uint8]) -> pa.Table:
    with pa.ipc.open_stream(pa.py_buffer(data.tobytes())) as reader:
        return reader.read_all()
