"""Live models and micro-batches for the tests of the update rules, and their float64 oracle."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakefactor.config import Model
from lakefactor.factorization.live_model import LiveModel
from lakefactor.kernels import reference
from lakefactor.testing.interactions import random_interactions
from lakefactor.types import SIDES, Side, other

Float64s = NDArray[np.float64]

RANK = 5
MODELS = {
    "implicit_als": Model(algorithm="implicit_als", rank=RANK, alpha=2.0, user_reg=0.5, item_reg=0.3),
    "ials": Model(algorithm="ials", rank=RANK, unobserved_weight=0.1, user_reg=0.02, item_reg=0.02, reg_exponent=1),
    "explicit_als": Model(algorithm="explicit_als", rank=RANK, user_reg=1.0, item_reg=0.7, bias_reg=0.4),
    "nmf": Model(algorithm="nmf", rank=RANK, unobserved_weight=0.5, user_reg=0.4, item_reg=0.3),
}
N_USERS, N_ITEMS = 30, 20
MEAN = 2.5
TABLE = random_interactions(N_USERS, N_ITEMS, 300, seed=5)
NAN = float("nan")


def live_model(model: Model, table: pa.Table = TABLE, seed: int = 0, shuffle: int | None = None) -> LiveModel:
    """Return a model with all users and items of a table, with random factors by id; row numbers by ``shuffle``."""
    ids, factors, bias, n_entries = {}, {}, {}, {}
    for side in SIDES:
        column = table[f"{side}_id"].to_pylist()
        names = sorted(set(column))
        random = np.random.default_rng([seed, side == "item"])
        own = (0.5 * random.normal(size=(len(names), model.rank))).astype(np.float32)
        own = np.abs(own) if model.algorithm == "nmf" else own
        order = np.arange(len(names)) if shuffle is None else np.random.default_rng(shuffle).permutation(len(names))
        ids[side] = pa.array([names[i] for i in order])
        factors[side] = own[order]
        biased = model.algorithm == "explicit_als"
        bias[side] = (0.1 * biased * random.normal(size=len(names)))[order].astype(np.float32)
        n_entries[side] = np.array([column.count(names[i]) for i in order], np.int64)
    return LiveModel(model, MEAN, ids, factors, bias, n_entries)


def changes_of(rows: list[tuple]) -> pa.Table:
    """Return the table of changes from (user, item, before, after), None where there is no interaction."""
    names = ("user_id", "item_id", "before", "after")
    types = (pa.string(), pa.string(), pa.float64(), pa.float64())
    columns = zip(*rows, strict=True) if rows else ([],) * 4
    return pa.table({name: pa.array(list(c), t) for name, c, t in zip(names, columns, types, strict=True)})


def table_of(state: dict[tuple[str, str], float]) -> pa.Table:
    """Return interactions as a table, from a dict by (user, item)."""
    return pa.table(
        {
            "user_id": pa.array([user for user, _ in state], pa.string()),
            "item_id": pa.array([item for _, item in state], pa.string()),
            "strength": pa.array(list(state.values()), pa.float64()),
        }
    )


def dict_of(table: pa.Table) -> dict[tuple[str, str], float]:
    """Return a table of interactions as a dict by (user, item)."""
    columns = (table[name].to_pylist() for name in ("user_id", "item_id", "strength"))
    return {(user, item): strength for user, item, strength in zip(*columns, strict=True)}


def entries_of(state: dict[tuple[str, str], float], side: Side, name: str) -> list[tuple[str, float]]:
    """Return (id of the other side, strength) of one row."""
    here, there = (0, 1) if side == "user" else (1, 0)
    return [(pair[there], strength) for pair, strength in state.items() if pair[here] == name]


def by_id(live: LiveModel, side: Side) -> dict[str, NDArray[np.float32]]:
    """Return the rows of a side by id."""
    rows = np.arange(live.size(side))
    return dict(zip(live.ids(side, rows), live.source(side).copy(), strict=True))


def oracle_row(
    live: LiveModel, side: Side, entries: list[tuple[str, float]], n: int | None = None
) -> tuple[Float64s, Float64s]:
    """Return M, b of one row against the other side as it is, in float64; ``n`` interactions regularize it."""
    equation, source = live.equation, live.source(other(side))
    rows = live.numbers(other(side), [name for name, _ in entries])
    strengths = np.array([strength for _, strength in entries], np.float32)
    count = np.array([len(entries) if n is None else n])
    return reference.system(
        source, equation.a0 * reference.gramian(source), rows, equation.weights(strengths),
        equation.targets(strengths), float(equation.reg(side, count, len(source))[0]),
        float(equation.bias_reg(side, count, len(source))[0]), equation.biased,
    )[:2]  # fmt: skip


def oracle_solution(live: LiveModel, matrix: Float64s, rhs: Float64s) -> Float64s:
    """Return the solution of M x = b, the best x >= 0 for nmf."""
    if not live.equation.nonnegative:
        return np.asarray(np.linalg.solve(matrix, rhs), np.float64)
    from scipy.optimize import nnls

    lower = np.linalg.cholesky(matrix)
    return np.asarray(nnls(lower.T, np.linalg.solve(lower, rhs))[0])
