"""A warehouse with one live model of random items, and users that solve its equation; the service over it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from starlette.testclient import TestClient

from lakefactor.client import Client
from lakefactor.config import Config, canonical_json, changed
from lakefactor.factorization.equation import Equation
from lakefactor.factorization.strengths import Span
from lakefactor.service import create_app

LIVE, OTHER = "20261120-080000-aaaa", "20261122-090000-bbbb"
RANK, N_USERS, N_ITEMS = 4, 6, 30
SPAN = Span(frozenset({"view"}), None, None)
MEAN = 3.25

Serving = Callable[..., AbstractContextManager[TestClient]]


class Warehouse:
    """User n has viewed three items; ids are as awkward as texts may be."""

    def __init__(self, write: Callable[..., None], root: Path, algorithm: str = "implicit_als") -> None:
        self.write, self.root, random = write, root, np.random.default_rng(3)
        keys = {"algorithm": algorithm, "rank": RANK, "alpha": 2.0, "user_reg": 0.5, "item_reg": 0.5, "bias_reg": 0.25}
        self.config = changed(Config(), {f"model.{name}": value for name, value in keys.items()})
        self.equation = Equation(self.config.model, MEAN if algorithm == "explicit_als" else 0.0)
        self.user_ids = ["u0", "ü/1 ?&", "用户2", "u'3\"", "𝄞4", "-5"]
        self.item_ids = sorted([f"i{n}" for n in range(N_ITEMS - 3)] + ["ä&b=c", "物品/7", "𝄞 #%"])
        self.items = random.normal(size=(N_ITEMS, RANK)).astype(np.float32)
        self.bias = (self.equation.biased * random.normal(size=N_ITEMS)).astype(np.float32)
        self.counts = random.permutation(N_ITEMS)
        self.seen = {n: sorted({n, 3 * n + 1, 29 - n}) for n in range(N_USERS)}
        self.strengths = {(n, i): 1.0 + (n + i) % 4 for n in self.seen for i in self.seen[n]}
        self.events_written, self.trained = 0, []
        self.publish()
        self.write("user_factors", [self.user_row(n) for n in self.seen])
        self.write("item_factors", [self.item_row(i, self.items[i]) for i in range(N_ITEMS)])
        self.view(self.strengths)
        self.client = Client(str(root))

    def publish(self, version: str = LIVE) -> None:
        """Make a version live, and write down that it was trained."""
        record = json.dumps({"events_version": 0, "span": SPAN.record()})
        config = canonical_json(self.config)
        row = {
            "config": config,
            "mean": self.equation.mean,
            "n_users": N_USERS,
            "made_from": record,
            "removed_at": None,
        }
        if version not in self.trained:
            self.write("models", [{"model_version": version, **row}])
            self.trained.append(version)
        if (table := self.root / "live_model").exists():
            row = pa.table({"name": ["default"], "model_version": [version]})
            write_deltalake(str(table), row, mode="overwrite", schema_mode="overwrite")
        else:
            self.write("live_model", [{"name": "default", "model_version": version}])

    def user_row(self, n: int, version: str = LIVE, sign: int = 1) -> dict[str, Any]:
        factors, bias = self.solve(n)
        row = {"model_version": version, "user_id": self.user_ids[n], "batch_id": -1}
        return row | {"factors": sign * factors, "bias": bias}

    def item_row(self, i: int, factors: np.ndarray, version: str = LIVE) -> dict[str, Any]:
        row = {"model_version": version, "item_id": self.item_ids[i], "batch_id": -1, "n_entries": int(self.counts[i])}
        return row | {"factors": factors, "bias": self.bias[i]}

    def solve(self, n: int) -> tuple[np.ndarray, float]:
        """Return factors and bias of a user, by numpy in float64."""
        items, y = self.seen[n], self.items.astype(np.float64)
        s = np.array([self.strengths[n, i] for i in items])
        reg = self.equation.reg("user", np.array([len(items)]), N_ITEMS)[0]
        if self.equation.biased:
            design = np.column_stack([y[items], np.ones(len(items))])
            ridge = np.diag([reg] * RANK + [self.equation.bias_reg("user", np.array([len(items)]), N_ITEMS)[0]])
            x = np.linalg.solve(design.T @ design + ridge, design.T @ (s - MEAN - self.bias[items]))
            return x[:RANK].astype(np.float32), float(np.float32(x[RANK]))
        matrix = y.T @ y + (y[items].T * (2.0 * s)) @ y[items] + reg * np.eye(RANK)
        return np.linalg.solve(matrix, y[items].T @ (1 + 2.0 * s)).astype(np.float32), 0.0

    def view(self, strengths: dict[tuple[int | str, int | str], float]) -> None:
        """Append events: of users and items by number, or by id."""
        rows = []
        for (user, item), value in strengths.items():
            self.events_written += 1
            ids = {"user_id": user if isinstance(user, str) else self.user_ids[user]}
            ids["item_id"] = item if isinstance(item, str) else self.item_ids[item]
            rows.append({**ids, "event_id": f"event-{self.events_written:010d}".encode(), "event_type": "view"})
            rows[-1] |= {"value": value, "event_time": None}
        self.write("events", rows)

    def update(self, side: str, name: str, factors: list[float], batch_id: int) -> dict[str, Any]:
        """Return a row of factor_updates."""
        ids = {"user_id": None, "item_id": None, f"{side}_id": name}
        row = {"model_version": LIVE, "batch_id": batch_id, "side": side, "optimizer_state": None, "rule": "exact"}
        return row | ids | {"factors": factors, "bias": 0.0, "n_entries": 7}


@pytest.fixture(params=["implicit_als", "explicit_als"])
def each(request: pytest.FixtureRequest, write: Callable[..., None], root: Path) -> Warehouse:
    return Warehouse(write, root, request.param)


@pytest.fixture
def warehouse(write: Callable[..., None], root: Path) -> Warehouse:
    return Warehouse(write, root)


@pytest.fixture
def build(write: Callable[..., None], root: Path) -> Callable[[], Warehouse]:
    return lambda: Warehouse(write, root)


@pytest.fixture
def serving(root: Path) -> Serving:
    """Start the service, having looked at the tables once; it looks again only when it is told to."""

    @contextmanager
    def start(look: bool = True, **keys: Any) -> Iterator[TestClient]:
        values = {"tables.root": str(root), "serve.poll_seconds": 3600.0}
        config = changed(Config(), values | {n if "." in n else f"serve.{n}": value for n, value in keys.items()})
        with TestClient(create_app(config), raise_server_exceptions=False) as asked:
            keeper = asked.app.state.keeper
            if look:
                assert keeper.look(), keeper.error
            yield asked

    return start
