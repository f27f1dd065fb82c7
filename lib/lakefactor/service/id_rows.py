"""Where an id stands among many, without a Python object for each of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from operator import methodcaller

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakefactor.query.ids import parse_id
from lakefactor.types import Side

Id = str | int
_AS_PYTHON = methodcaller("as_py")


class IdRows:
    """Finds ids in an ascending Arrow array by bisection.

    Texts in Arrow are in order of their UTF-8 bytes, and so are Python's.

    Examples
    --------
    >>> IdRows(pa.array(["a", "ä", "𝄞"])).rows(["𝄞", "b", "a"])
    array([ 2, -1,  0], dtype=int32)
    """

    def __init__(self, ids: pa.Array) -> None:
        self.ids = ids
        self._numbers = ids.to_numpy() if pa.types.is_integer(ids.type) else None

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, wanted: Id) -> int:
        """Return the row of an id of the array's type; -1: there is none."""
        if self._numbers is not None:
            row = int(np.searchsorted(self._numbers, wanted))
            return row if row < len(self.ids) and self._numbers[row] == wanted else -1
        row = bisect_left(self.ids, wanted, key=_AS_PYTHON)
        return row if row < len(self.ids) and self.ids[row].as_py() == wanted else -1

    def rows(self, wanted: Sequence[Id]) -> NDArray[np.int32]:
        """Return the row of each id, -1 where there is none."""
        return np.fromiter(map(self.row, wanted), np.int32, len(wanted))

    def parsed(self, given: Id, side: Side) -> Id:
        """Return an id as the array's type has it.

        Raises
        ------
        InputError
            It cannot be an id of this type.
        """
        return parse_id(given, self.ids.type, f"{side}_id")

    def at(self, rows: NDArray[np.int32]) -> list[Id]:
        """Return the ids of some rows."""
        found: list[Id] = self.ids.take(pa.array(rows)).to_pylist()
        return found
