"""The item side of a model in memory, and the rows of Arrow columns as arrays.

Items are ordered by id, so a tie between columns is a tie between ids. Ids travel as Arrow, never as a Python map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


@dataclass(frozen=True)
class Catalogue:
    """Item factors of one model version.

    Attributes
    ----------
    ids : pyarrow Array, length m
        Item ids, ascending.
    factors : float32 ndarray, shape (m, k)
    bias : float32 ndarray, shape (m,)
    n_entries : int64 ndarray, shape (m,)
        Training interactions of each item.
    categories : pyarrow Array of strings, length m, or None
        Category of each item, null where it has none; None: nothing is known of any.
    """

    ids: pa.Array
    factors: NDArray[np.float32]
    bias: NDArray[np.float32]
    n_entries: NDArray[np.int64]
    categories: pa.Array | None = None

    def columns_of(self, ids: pa.Array) -> NDArray[np.int32]:
        """Return the column of each id, int32; -1 for an id outside the catalogue."""
        found = pc.index_in(ids.cast(self.ids.type), value_set=self.ids)
        return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int32)

    def mask(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Return which columns are among some ids given as text, bool, shape (m,)."""
        return pc.is_in(self.ids.cast(pa.string()), value_set=pa.array(ids, pa.string())).to_numpy(zero_copy_only=False)

    def with_categories(self, items: pa.Table) -> Catalogue:
        """Return the catalogue with the categories that rows ``item_id, category`` give, each item once."""
        found = pc.index_in(self.ids, value_set=items["item_id"].combine_chunks().cast(self.ids.type))
        return replace(self, categories=items["category"].combine_chunks().take(found))

    def in_categories(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Return which columns are of some categories, bool, shape (m,)."""
        if self.categories is None:
            return np.zeros(len(self.ids), bool)
        return pc.is_in(self.categories, value_set=pa.array(names, pa.string())).to_numpy(zero_copy_only=False)

    def category_codes(self) -> NDArray[np.int32]:
        """Return a number for the category of each column, int32, shape (m,); -1 where it has none."""
        if self.categories is None:
            return np.full(len(self.ids), -1, np.int32)
        codes = self.categories.dictionary_encode().indices
        return pc.fill_null(codes, -1).to_numpy(zero_copy_only=False).astype(np.int32)

    def by_popularity(self) -> Catalogue:
        """Return a catalogue whose score for every user is the item's number of training interactions.

        Its factors have one column, for users whose only factor is 1.
        """
        counts = self.n_entries.astype(np.float32)[:, None]
        return replace(self, factors=counts, bias=np.zeros(len(self.ids), np.float32))


def matrix(lists: pa.Array) -> NDArray[np.float32]:
    """Return a column of equally long float lists as a float32 matrix, shape (n, k).

    >>> matrix(pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32())))
    array([[1., 2.],
           [3., 4.]], dtype=float32)
    """
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return values.reshape(len(lists), -1) if len(lists) else np.empty((0, 0), np.float32)


def as_lists(rows: NDArray[np.float32]) -> pa.Array:
    """Return a float32 matrix as a column of lists, one for each row.

    >>> as_lists(np.array([[1, 2], [3, 4]], np.float32)).to_pylist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.ascontiguousarray(rows).ravel()))


def csr_columns(
    lists: pa.Array, catalogue: Catalogue, *values: pa.Array
) -> tuple[NDArray[np.int64], NDArray[np.int32], list[NDArray[np.float32]]]:
    """Turn lists of item ids into CSR rows of columns, ascending in each row; unknown items keep column -1.

    Parameters
    ----------
    lists : pyarrow ListArray, length b
    catalogue : Catalogue
    *values : pyarrow ListArray
        Numbers beside the ids; returned in the order of the columns.
    """
    indptr = np.concatenate(
        [[0], np.cumsum(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False))]
    )
    columns = catalogue.columns_of(lists.flatten())
    rows = np.repeat(np.arange(len(lists)), np.diff(indptr))
    order = np.lexsort((columns, rows))
    flat = [value.flatten().to_numpy(zero_copy_only=False).astype(np.float32)[order] for value in values]
    return indptr.astype(np.int64), columns[order], flat


def known_only(
    indptr: NDArray[np.int64], columns: NDArray[np.int32], *values: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int32], list[NDArray[np.float32]]]:
    """Drop the -1 columns of CSR rows.

    >>> known_only(np.array([0, 2, 3]), np.array([-1, 4, 2], np.int32))
    (array([0, 1, 2]), array([4, 2], dtype=int32), [])
    """
    keep = columns >= 0
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    return kept_before[indptr], columns[keep], [value[keep] for value in values]
