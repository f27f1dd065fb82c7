"""All users of a model in memory: their factors, and what they have interacted with.

Both are arrays as they were read in one go, and over them, by id, what has changed since. An object never changes: the
next one shares the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakefactor.client.loaded import Columns, History, User
from lakefactor.factorization.catalogue import Catalogue, matrix
from lakefactor.factorization.coding import coded, invert
from lakefactor.service.id_rows import Id, IdRows

NO_HISTORY = History(np.empty(0, np.int32), np.empty(0, np.float32))


@dataclass(frozen=True)
class Users:
    """Factors and biases of users.

    Attributes
    ----------
    ids : IdRows
    factors : float32 ndarray, shape (n, rank)
    bias : float32 ndarray, shape (n,)
    changed : mapping of ids to User
        These hold instead, or are new.
    """

    ids: IdRows
    factors: NDArray[np.float32]
    bias: NDArray[np.float32]
    changed: Mapping[Id, User] = field(default_factory=dict)

    @classmethod
    def of_rows(cls, rows: pa.Table) -> Users:
        """Return users from rows of ``user_id, factors, bias``, ascending by id."""
        ids, factors = rows["user_id"].combine_chunks(), matrix(rows["factors"].combine_chunks())
        return cls(IdRows(ids), factors, rows["bias"].to_numpy().astype(np.float32))

    def __len__(self) -> int:
        return len(self.ids) + sum(self.ids.row(user) < 0 for user in self.changed)

    def get(self, user: Id) -> User | None:
        """Return a user; None: the model does not know it."""
        if (changed := self.changed.get(user)) is not None:
            return changed
        row = self.ids.row(user)
        return None if row < 0 else self._at(row)

    def with_rows(self, rows: pa.Table) -> Users:
        """Return the same users where these rows, one for each user, hold instead."""
        new = Users.of_rows(rows)
        ids = new.ids.ids.to_pylist()
        return replace(self, changed={**self.changed, **{user: new._at(row) for row, user in enumerate(ids)}})

    def _at(self, row: int) -> User:
        return User(self.factors[row], float(self.bias[row]))


@dataclass(frozen=True)
class Histories:
    """Interactions of users, with items as columns of a catalogue.

    Attributes
    ----------
    ids : IdRows
        Users that have any.
    indptr : int64 ndarray, shape (n + 1,)
    columns, strengths : int32 and float32 ndarray
        CSR rows, columns ascending in each.
    strangers : pyarrow Table
        ``user_id, item_id`` of interactions with items that the catalogue does not have.
    changed : mapping of ids to History
        These hold instead.
    """

    ids: IdRows
    indptr: NDArray[np.int64]
    columns: Columns
    strengths: NDArray[np.float32]
    strangers: pa.Table
    changed: Mapping[Id, History] = field(default_factory=dict)

    @classmethod
    def of_pairs(cls, pairs: pa.Table, catalogue: Catalogue) -> Histories:
        """Return histories from ``user_id, item_id, strength``, each pair once."""
        users, user = coded(pairs["user_id"])
        items, item = coded(pairs["item_id"])
        order = pc.sort_indices(users)
        row = invert(order.to_numpy())[user]
        column = catalogue.columns_of(items)[item]
        known = np.flatnonzero(column >= 0)
        known = known[np.lexsort((column[known], row[known]))]
        counts = np.bincount(row[known], minlength=len(users))
        strangers = pairs.select(["user_id", "item_id"]).filter(pa.array(column < 0))
        return cls(
            IdRows(users.take(order)),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            column[known].astype(np.int32),
            pairs["strength"].to_numpy()[known].astype(np.float32),
            pa.table({name: _plain(strangers[name]) for name in strangers.column_names}),
        )

    def of(self, user: Id) -> History:
        """Return what a user has interacted with; nothing, where nobody has heard of the user."""
        if (changed := self.changed.get(user)) is not None:
            return changed
        row = self.ids.row(user)
        return NO_HISTORY if row < 0 else self._at(row)

    def with_users(self, users: pa.Array, pairs: pa.Table, catalogue: Catalogue) -> Histories:
        """Return the same histories where these users have these interactions, and no others."""
        new = Histories.of_pairs(pairs, catalogue)
        found = {user: new._at(row) for row, user in enumerate(new.ids.ids.to_pylist())}
        changed = {user: found.get(user, NO_HISTORY) for user in users.to_pylist()}
        others = self.strangers.filter(pc.invert(pc.is_in(self.strangers["user_id"], value_set=users)))
        strangers = pa.concat_tables([others, new.strangers])
        return replace(self, strangers=strangers, changed={**self.changed, **changed})

    def moved(self, place: NDArray[np.int32]) -> Histories:
        """Return the same histories over a larger catalogue, in which column c has become ``place[c]``."""
        changed = {user: History(place[old.columns], old.strengths) for user, old in self.changed.items()}
        return replace(self, columns=place[self.columns], changed=changed)

    def who_met(self, items: pa.Array) -> pa.Array:
        """Return the users, each once, who have met some items that the catalogue did not have."""
        met = pc.is_in(self.strangers["item_id"], value_set=items)
        return pc.unique(self.strangers["user_id"].filter(met))

    def _at(self, row: int) -> History:
        some = slice(self.indptr[row], self.indptr[row + 1])
        return History(self.columns[some], self.strengths[some])


def _plain(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return ids that may be dictionary-encoded as they are."""
    return ids.cast(ids.type.value_type) if pa.types.is_dictionary(ids.type) else ids
