"""A warehouse with one live model of random items, and users that solve its equation; the service over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from starlette.testclient import TestClient

from lakefactor.client import Client
from lakefactor.config import Config, changed
from lakefactor.service import create_app
from lakefactor.testing.one_model import LIVE, OneModel

N_ITEMS = 30

Serving = Callable[..., AbstractContextManager[TestClient]]


class Warehouse(OneModel):
    """User n has viewed three items; ids are as awkward as texts may be."""

    def __init__(self, write: Callable[..., None], root: Path, algorithm: str = "implicit_als") -> None:
        users = ["u0", "ü/1 ?&", "用户2", "u'3\"", "𝄞4", "-5"]
        items = sorted([f"i{n}" for n in range(N_ITEMS - 3)] + ["ä&b=c", "物品/7", "𝄞 #%"])
        seen = {n: sorted({n, 3 * n + 1, 29 - n}) for n in range(len(users))}
        super().__init__(write, algorithm, users, items, seen)
        self.root, self.trained = root, {LIVE}
        self.write_model()
        self.client = Client(str(root))

    def publish(self, version: str = LIVE) -> None:
        """Make a version live, and write down that it was trained."""
        if version not in self.trained:
            self.record(version)
            self.trained.add(version)
        row = pa.table({"name": ["default"], "model_version": [version]})
        write_deltalake(str(self.root / "live_model"), row, mode="overwrite", schema_mode="overwrite")


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
