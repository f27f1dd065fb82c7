"""The live model in the memory of a stream's driver: factors, counts and Gramians, changed row by row.

Its numbers are a function of the rows it holds, not of how they came there: after a restart it continues with the same
bits. Row numbers are its own; what leaves it goes by id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakefactor.config import Model
from lakefactor.errors import ConfigError, ShapeError
from lakefactor.factorization.coding import coded
from lakefactor.factorization.equation import Equation
from lakefactor.kernels import gramian
from lakefactor.kernels.running_gramian import RunningGramian
from lakefactor.types import FACTOR_DTYPE, SIDES, Side

STREAMED = ("implicit_als", "ials", "explicit_als", "nmf")
ID_BYTES = 220
"""Of one id: its object, its place in the dictionary at the least favourable load, and in the list of ids."""


@dataclass
class _Rows:
    """One side. Arrays may be longer than ``ids``: spare capacity.

    ``table`` is what the table holds of tempered items. Tempering rounds, so a row is what comes back from the table.
    """

    factors: NDArray[np.float32]
    n_entries: NDArray[np.int64]
    gramian: RunningGramian | None
    ids: list[Any]
    number: dict[Any, int] = field(default_factory=dict)
    state: NDArray[np.float32] | None = None
    table: NDArray[np.float32] | None = None


class LiveModel:
    """The factors of a model version with all updates so far.

    Parameters
    ----------
    model : Model
        The configuration that the version was trained with.
    mean : float
        Mean strength of its training, in units of strength.
    ids : dict of pyarrow Array
        Distinct ids of each side, strings or integers, without nulls.
    factors : dict of float32 ndarray, shape (n, rank)
        As the tables hold them (items may be tempered).
    bias : dict of float32 ndarray, shape (n,)
    n_entries : dict of int64 ndarray, shape (n,)
        Interactions of each row.

    Raises
    ------
    ConfigError
        The algorithm has no update rule.
    ShapeError
        Arrays disagree, or an id is there twice.
    """

    def __init__(
        self,
        model: Model,
        mean: float,
        ids: dict[Side, pa.Array],
        factors: dict[Side, NDArray[np.float32]],
        bias: dict[Side, NDArray[np.float32]],
        n_entries: dict[Side, NDArray[np.int64]],
    ) -> None:
        check_streamed(model)
        self.model = model
        self.equation = Equation(model, mean if model.algorithm == "explicit_als" else 0.0)
        self._sides: dict[Side, _Rows] = {}
        for side in SIDES:
            shapes = (factors[side].shape, bias[side].shape, n_entries[side].shape)
            n = len(ids[side])
            if shapes != ((n, model.rank), (n,), (n,)):
                raise ShapeError(f"{n} {side} ids with arrays of shapes {shapes}; the rank is {model.rank}.")
            self._sides[side] = self._load(side, ids[side], factors[side], bias[side], n_entries[side])

    def _load(
        self,
        side: Side,
        ids: pa.Array,
        factors: NDArray[np.float32],
        bias: NDArray[np.float32],
        n_entries: NDArray[np.int64],
    ) -> _Rows:
        columns = self.equation.columns
        own = np.empty((len(ids), columns), FACTOR_DTYPE)
        own[:, : self.model.rank] = self.equation.untempered(factors) if side == "item" else factors
        if self.equation.biased:
            own[:, -1] = bias
        rows = _Rows(own, n_entries.astype(np.int64), None, ids.to_pylist())
        if side == "item" and self.model.item_norm_exponent:
            rows.table = factors.copy()
        rows.number = {name: number for number, name in enumerate(rows.ids)}
        if len(rows.number) < len(rows.ids):
            raise ShapeError(f"{len(rows.ids) - len(rows.number)} {side} ids are there twice.")
        if self.equation.a0 > 0:
            rows.gramian = RunningGramian(columns)
            rows.gramian.add(own)
        return rows

    def size(self, side: Side) -> int:
        """Return how many rows a side has."""
        return len(self._sides[side].ids)

    def source(self, side: Side) -> NDArray[np.float32]:
        """Return a view of all factors of a side, shape (n, columns), the bias in the last column where there is one.

        Items are untempered. The view is of the present: rows change in it, and new ones are not in it.
        """
        return self._sides[side].factors[: self.size(side)]

    def n_entries(self, side: Side, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the interactions of some rows."""
        return self._sides[side].n_entries[rows]

    def rows(self, side: Side, ids: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
        """Return the row number of each id, -1 where it is unknown."""
        distinct, place = coded(ids)
        return self.numbers(side, distinct.to_pylist())[place]

    def numbers(self, side: Side, ids: list[Any]) -> NDArray[np.int64]:
        """Return the row number of each of some ids, as `rows`."""
        number = self._sides[side].number
        return np.fromiter((number.get(name, -1) for name in ids), np.int64, len(ids))

    def ids(self, side: Side, rows: NDArray[np.int64]) -> list[Any]:
        """Return the ids of some rows."""
        names = self._sides[side].ids
        return [names[row] for row in rows.tolist()]

    def add(self, side: Side, ids: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
        """Return the row number of each id; unknown ones get new rows of zeros, in order of their ids."""
        own = self._sides[side]
        new = sorted(name for name in coded(ids)[0].to_pylist() if name not in own.number)
        first, n = len(own.ids), len(own.ids) + len(new)
        if n > len(own.factors):
            spare = max(n, 2 * len(own.factors)) - len(own.factors)
            own.factors, own.n_entries = _grown(own.factors, spare), _grown(own.n_entries, spare)
            own.state, own.table = (a if a is None else _grown(a, spare) for a in (own.state, own.table))
        own.ids += new
        own.number.update(zip(new, range(first, n), strict=True))
        return self.rows(side, ids)

    def replace(
        self,
        side: Side,
        rows: NDArray[np.int64],
        factors: NDArray[np.float32],
        n_entries: NDArray[np.int64],
        optimizer_state: NDArray[np.float32] | None = None,
    ) -> None:
        """Put new numbers into some rows, each at most once.

        Parameters
        ----------
        side : {"user", "item"}
        rows : int64 ndarray, shape (n,)
        factors : float32 ndarray, shape (n, columns)
            As in `source`; tempered items are rounded to what comes back from the table.
        n_entries : int64 ndarray, shape (n,)
        optimizer_state : float32 ndarray, shape (n, width), or None
            As `put_state`; None leaves it as it is.

        Raises
        ------
        SolveError
            Factors are not finite; nothing was changed.
        """
        own = self._sides[side]
        if own.table is not None:
            stored = self.equation.tempered(factors)
            factors = self.equation.untempered(stored)
        if own.gramian is not None:
            old = own.factors[rows]
            own.gramian.add(factors)
            own.gramian.subtract(old)
        if own.table is not None:
            own.table[rows] = stored
        own.factors[rows] = factors
        own.n_entries[rows] = n_entries
        if optimizer_state is not None:
            self.put_state(side, rows, optimizer_state)

    def put_state(self, side: Side, rows: NDArray[np.int64], state: NDArray[np.float32]) -> None:
        """Set the optimizer's state of some rows, shape (n, width), and nothing else: what a restart reads.

        Another width than so far begins anew: rows that are not given have zeros.
        """
        own = self._sides[side]
        if own.state is None or own.state.shape[1] != state.shape[1]:
            own.state = np.zeros((len(own.factors), state.shape[1]), FACTOR_DTYPE)
        own.state[rows] = state

    def state(self, side: Side, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Return the optimizer's state of some rows, float32, shape (n, width); None where the side has none."""
        state = self._sides[side].state
        return None if state is None else state[rows]

    def optimizer_state(self, side: Side, rows: NDArray[np.int64], width: int) -> NDArray[np.float32]:
        """Return the optimizer's state of some rows, float32, shape (n, width); zeros where there is none."""
        state = self._sides[side].state
        if state is None or state.shape[1] != width:
            return np.zeros((len(rows), width), FACTOR_DTYPE)
        return state[rows]

    def stored(self, side: Side, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return factors, shape (n, rank), and biases, shape (n,), of some rows as the tables hold them."""
        own, table = self._sides[side].factors[rows], self._sides[side].table
        factors = np.ascontiguousarray(own[:, : self.model.rank]) if table is None else table[rows]
        bias = own[:, -1].copy() if self.equation.biased else np.zeros(len(own), FACTOR_DTYPE)
        return factors, bias

    def scaled_gramian(self, side: Side) -> NDArray[np.float32]:
        """Return a0 Y'Y over all rows of a side, float32, shape (columns, columns)."""
        kept = self._sides[side].gramian
        if kept is None:
            return np.zeros((self.equation.columns,) * 2, FACTOR_DTYPE)
        return (self.equation.a0 * kept.value()).astype(FACTOR_DTYPE)

    def recompute_gramians(self) -> float:
        """Sum the Gramians anew; return the largest difference of the kept ones, relative to sqrt(G_ii G_jj).

        The difference is that of rounding to multiples of 2^-24, which every sum here shares; so nothing changes by a
        recomputation unless memory was damaged.
        """
        largest = 0.0
        for side in SIDES:
            own = self._sides[side]
            if own.gramian is None:
                continue
            exact = gramian(self.source(side))
            size = np.sqrt(np.diag(exact))
            scale = np.outer(size, size)
            difference = np.abs(own.gramian.value() - exact)
            largest = max(largest, float((difference / np.where(scale > 0, scale, 1.0)).max(initial=0.0)))
            own.gramian = RunningGramian(self.equation.columns)
            own.gramian.add(self.source(side))
        return largest


def check_streamed(model: Model) -> None:
    """Raise ConfigError for an algorithm whose factors no update rule can keep up to date."""
    if model.algorithm not in STREAMED:
        raise ConfigError(
            f"model.algorithm is {model.algorithm}, which has no update rule; a stream needs one of "
            f"{', '.join(STREAMED)}. Train and publish such a model, or keep this one by regular trainings "
            "(train.warm_start = true makes them short)."
        )


def memory_bytes(n_users: int, n_items: int, columns: int) -> int:
    """Return about how many bytes a live model needs, all arrays grown to twice the rows and without optimizer state.

    >>> memory_bytes(1_000_000, 100_000, 64) >> 20
    784
    """
    return (n_users + n_items) * (2 * (4 * columns + 8) + ID_BYTES)


def _grown(array: NDArray[Any], spare: int) -> NDArray[Any]:
    """Return the array with so many rows of zeros more."""
    return np.concatenate([array, np.zeros((spare, *array.shape[1:]), array.dtype)])
