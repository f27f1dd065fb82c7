"""Ids and their numbers: distinct ids of a rank's entries, their order, and lists of ids between ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakefactor.comm import Communicator, exchange_parts
from lakefactor.errors import ShapeError
from lakefactor.types import INDEX_DTYPE

BLOCK_ENTRIES = 1 << 20
"""Entries whose plain ids are held at a time."""

Coded = tuple[pa.Array, NDArray[np.int32]]
"""Distinct ids, and the number of each entry's id among them."""


def coded(ids: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int64]]:
    """Return the distinct ids that occur, and each entry's place among them.

    Ids that are dictionaries already are not hashed again.

    Raises
    ------
    ShapeError
        An id is null.

    Examples
    --------
    >>> distinct, place = coded(pa.array(["b", "a", "b"]))
    >>> distinct.to_pylist(), place.tolist()
    (['b', 'a'], [0, 1, 0])
    """
    if ids.null_count:
        raise ShapeError(f"{ids.null_count} of {len(ids)} ids are null.")
    chunks = (ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]) or [pa.array([], ids.type)]
    encoded = [chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode() for chunk in chunks]
    distinct, codes = _unify_codes(encoded)
    occurs = np.bincount(codes, minlength=len(distinct)) > 0
    if occurs.all():
        return distinct, codes.astype(np.int64)
    return distinct.filter(pa.array(occurs)), (np.cumsum(occurs) - 1)[codes]


def encode(batches: Iterable[pa.RecordBatch]) -> tuple[Coded, Coded, NDArray[np.float32]]:
    """Replace ids by codes, block by block, so that no more than one block of plain ids is held."""
    coded: tuple[list[pa.Array], list[pa.Array]] = ([], [])
    strengths = [np.empty(0, np.float32)]
    for block in _blocks(batches):
        for side in (0, 1):
            # One dictionary for all batches of a block: an id is hashed once here, and once more per block.
            chunks = block.column(side).dictionary_encode().chunks
            coded[side].append(pa.DictionaryArray.from_arrays(_indices(chunks), chunks[-1].dictionary))
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which `build_shard` refuses
            strengths += [chunk.to_numpy(zero_copy_only=False).astype(np.float32) for chunk in block.column(2).chunks]
    users, items = (_unify_codes(chunks) for chunks in coded)
    return users, items, np.concatenate(strengths)


def _blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield the batches in tables of about ``BLOCK_ENTRIES`` rows."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += len(batch)
        if rows >= BLOCK_ENTRIES:
            yield pa.Table.from_batches(held)
            held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held)


def _indices(chunks: list[pa.Array]) -> pa.Array:
    return pa.array(np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in chunks]))


def _unify_codes(chunks: list[pa.Array]) -> Coded:
    if not chunks:
        return pa.array([], pa.string()), np.empty(0, INDEX_DTYPE)
    unified = pa.chunked_array(chunks).unify_dictionaries()
    codes = np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in unified.chunks])
    return unified.chunk(0).dictionary, codes.astype(INDEX_DTYPE, copy=False)


def order_ids(ids: pa.Array, counts: NDArray[np.int64], owner: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Return the permutation that sorts ids by (owner, entries descending, id)."""
    columns = {"count": pa.array(counts), "id": ids}
    keys = [("count", "descending"), ("id", "ascending")]
    if owner is not None:
        columns["owner"] = pa.array(owner)
        keys.insert(0, ("owner", "ascending"))
    return pc.sort_indices(pa.table(columns), sort_keys=keys).to_numpy().astype(np.int64)


def reorder(order: NDArray[np.int64], ids: pa.Array, codes: NDArray[np.int32]) -> Coded:
    """Return ids and codes renumbered: id ``order[i]`` becomes number i."""
    return ids.take(pa.array(order)), invert(order)[codes]


def invert(order: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the inverse of a permutation."""
    inverse = np.empty(len(order), INDEX_DTYPE)
    inverse[order] = np.arange(len(order), dtype=INDEX_DTYPE)
    return inverse


def send_ids(comm: Communicator, ids: pa.Array, per_owner: NDArray[np.int64]) -> list[pa.Array]:
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


def unify(wanted: list[pa.Array], id_type: pa.DataType) -> tuple[pa.Array, list[NDArray[np.int32]]]:
    """Merge the id lists of all ranks; return the distinct ids and, per rank, the number of each id of its list."""
    # A rank without entries does not know the type of the ids; its lists are empty.
    known = next((ids.type for ids in wanted if len(ids)), id_type)
    chunks = [ids if len(ids) else pa.array([], known) for ids in wanted]
    ids, codes = _unify_codes([chunk.dictionary_encode() for chunk in chunks])
    return ids, np.split(codes, np.cumsum([len(chunk) for chunk in chunks])[:-1])
