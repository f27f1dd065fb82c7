"""One live model of random items in a warehouse that delta-rs writes, with users that solve its equation exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakefactor.config import Config, canonical_json, changed
from lakefactor.contracts import IdType
from lakefactor.factorization.equation import Equation
from lakefactor.factorization.strengths import Span

LIVE, OTHER = "20261120-080000-aaaa", "20261122-090000-bbbb"
RANK = 4
MEAN = 3.25
ALPHA = 2.0

Id = str | int
UserRow = tuple[NDArray[np.float32], float]


class OneModel:
    """A model whose users are, by numpy in float64, what its equation makes of their events.

    Parameters
    ----------
    write : callable
        Appends rows to a table: ``write(table, rows, ids=...)``.
    algorithm : str
        ``implicit_als`` or ``explicit_als``.
    users, items : sequence of ids
        Items ascending.
    seen : mapping of int to list of int
        Numbers of the items that each user, by number, has viewed, ascending.

    Attributes
    ----------
    items : float32 ndarray, shape (m, RANK)
    bias : float32 ndarray, shape (m,)
    counts : int64 ndarray, shape (m,)
        Interactions of each item, all different.
    strengths : dict of (user number, item number) to float
    """

    def __init__(
        self,
        write: Callable[..., None],
        algorithm: str,
        users: Sequence[Id],
        items: Sequence[Id],
        seen: Mapping[int, list[int]],
    ) -> None:
        keys = {"algorithm": algorithm, "rank": RANK, "alpha": ALPHA}
        keys |= {"user_reg": 0.5, "item_reg": 0.5, "bias_reg": 0.25}
        self.config = changed(Config(), {f"model.{name}": value for name, value in keys.items()})
        self.equation = Equation(self.config.model, MEAN if algorithm == "explicit_als" else 0.0)
        self.user_ids, self.item_ids, self.seen = users, items, seen
        random, m = np.random.default_rng(7), len(items)
        self.items = random.normal(size=(m, RANK)).astype(np.float32)
        self.bias = (self.equation.biased * random.normal(size=m)).astype(np.float32)
        self.counts = random.permutation(m)
        self.strengths = {(n, i): 1.0 + (n + i) % 4 for n in seen for i in seen[n]}
        self._write, self._n_events = write, 0

    def write(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to a table."""
        kind: IdType = "string" if isinstance(self.user_ids[0], str) else "long"
        self._write(table, rows, ids=kind)

    def write_model(self) -> None:
        """Write the live version: its record, its factors, and the events behind it."""
        self.record(LIVE)
        self.write("live_model", [{"name": "default", "model_version": LIVE}])
        self.write("user_factors", [self.user_row(n) for n in self.seen])
        self.write("item_factors", [self.item_row(i, self.items[i]) for i in range(len(self.items))])
        self.view(self.strengths)

    def record(self, version: str) -> None:
        """Write down that a version was trained on every view."""
        made_from = {"events_version": 0, "span": Span(frozenset({"view"}), None, None).record()}
        row = {"config": canonical_json(self.config), "mean": self.equation.mean, "n_users": len(self.seen)}
        row |= {"made_from": json.dumps(made_from), "removed_at": None}
        self.write("models", [{"model_version": version, **row}])

    def user_row(self, n: int, version: str = LIVE, sign: int = 1) -> dict[str, Any]:
        """Return a row of user_factors."""
        factors, bias = self.solve(n)
        row = {"model_version": version, "user_id": self.user_ids[n], "batch_id": -1}
        return row | {"factors": sign * factors, "bias": bias}

    def item_row(self, i: int, factors: NDArray[np.float32], version: str = LIVE) -> dict[str, Any]:
        """Return a row of item_factors."""
        row = {"model_version": version, "item_id": self.item_ids[i], "batch_id": -1, "n_entries": int(self.counts[i])}
        return row | {"factors": factors, "bias": self.bias[i]}

    def view(self, strengths: Mapping[Any, float], kind: str = "view") -> None:
        """Append events of users and items, by number, or by an id that is text."""
        rows: list[dict[str, Any]] = []
        for (user, item), value in strengths.items():
            self._n_events += 1
            ids = {"user_id": user if isinstance(user, str) else self.user_ids[user]}
            ids["item_id"] = item if isinstance(item, str) else self.item_ids[item]
            rows.append({**ids, "event_id": f"event-{self._n_events:010d}".encode(), "event_type": kind})
            rows[-1] |= {"value": value, "event_time": None}
        self.write("events", rows)

    def update(self, side: str, name: Id, factors: list[float], batch_id: int) -> dict[str, Any]:
        """Return a row of factor_updates."""
        ids = {"user_id": None, "item_id": None, f"{side}_id": name}
        row = {"model_version": LIVE, "batch_id": batch_id, "side": side, "optimizer_state": None, "rule": "exact"}
        return row | ids | {"factors": factors, "bias": 0.0, "n_entries": 7}

    def solve(self, n: int, items: list[int] | None = None, strength: float | None = None) -> UserRow:
        """Return factors and bias of a user with some items, the seen ones by default, rounded as a table has them."""
        items, y = self.seen[n] if items is None else items, self.items.astype(np.float64)
        s = np.array([strength or self.strengths[n, i] for i in items])
        count, m = np.array([len(items)]), len(y)
        reg = self.equation.reg("user", count, m)[0]
        if self.equation.biased:
            design = np.column_stack([y[items], np.ones(len(items))])
            ridge = np.diag([reg] * RANK + [self.equation.bias_reg("user", count, m)[0]])
            x = np.linalg.solve(design.T @ design + ridge, design.T @ (s - MEAN - self.bias[items]))
            return x[:RANK].astype(np.float32), float(np.float32(x[RANK]))
        matrix = y.T @ y + (y[items].T * (ALPHA * s)) @ y[items] + reg * np.eye(RANK)
        return np.linalg.solve(matrix, y[items].T @ (1 + ALPHA * s)).astype(np.float32), 0.0

    def scores(self, user: UserRow) -> NDArray[np.float32]:
        """Return a user's scores of all items, summed in float64."""
        x, bias = user
        dots = self.items.astype(np.float64) @ x.astype(np.float64)
        return (dots + (bias + self.equation.mean) + self.bias).astype(np.float32)
