"""What pages read, held in memory for as long as the tables behind it stand still."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow.compute as pc

from lakefactor.client import Client
from lakefactor.config import Config
from lakefactor.query import Reader
from lakefactor.query.lake import Lake
from lakefactor.query.reader import LIVE_NAME

T = TypeVar("T")
State = tuple[str, int] | None
"""Identity and Delta version of a table; None: it does not exist."""

MOST_HELD = 500

MODEL_TABLES = ("live_model", "models", "item_factors", "factor_updates")
USER_TABLES = (*MODEL_TABLES, "user_factors", "interactions", "events")


@dataclass
class _Held:
    """One answer, made by one thread at a time."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    states: tuple[State, ...] | None = None
    value: Any = None


class Store:
    """The tables of a configuration, with what has been made of them.

    Parameters
    ----------
    config : Config
        ``tables.root``, and the sections that say which metric and which stream matter.

    Raises
    ------
    ConfigError
        ``tables.root`` is empty.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.lake, self.reader = config, Lake(config.tables), Reader(config.tables)
        self._held: OrderedDict[Hashable, _Held] = OrderedDict()
        self._lock = threading.Lock()

    def look(self) -> Look:
        """Return a look at the tables as they are now; a page takes one."""
        return Look(self)

    def held(self, key: Hashable) -> _Held:
        """Return the place of an answer; those that nobody has asked for longest are given up."""
        with self._lock:
            found = self._held.setdefault(key, _Held())
            self._held.move_to_end(key)
            if len(self._held) > MOST_HELD:
                self._held.popitem(last=False)
            return found


class Look:
    """One page's view of the tables: the version of each is asked for once, and no answer is older than that."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.config, self.lake, self.reader = store.config, store.lake, store.reader
        self._states: dict[str, State] = {}

    def exists(self, table: str) -> bool:
        """Tell whether a table has been created.

        Raises
        ------
        TableError
            Its log cannot be read.
        """
        return self.state(table) is not None

    def state(self, table: str) -> State:
        """Return a table's identity and version."""
        if table not in self._states:
            self._states[table] = self.lake.state(table)
        return self._states[table]

    def hold(self, key: Hashable, tables: Sequence[str], make: Callable[[], T]) -> T:
        """Return what `make` makes of some tables; it is called only where one of them has changed since."""
        states = tuple(self.state(table) for table in tables)  # before it reads: a commit meanwhile is seen next time
        held = self._store.held(key)
        with held.lock:
            if held.states != states:
                held.value, held.states = make(), states
            value: T = held.value
            return value

    @property
    def live_version(self) -> str | None:
        """The model version that is live."""
        if not self.exists("live_model"):
            return None
        row = self.hold("live", ["live_model"], lambda: live_row(self.lake))
        return None if row is None else str(row["model_version"])

    def client(self) -> Client:
        """Return a client of the live model, as it is now.

        Raises
        ------
        TableError
            None is live, or a table of it cannot be read.
        """
        return self.hold("client", MODEL_TABLES, lambda: Client(self.config.tables))

    def rows(self, table: str, columns: Sequence[str], **where: str | int) -> list[dict[str, Any]]:
        """Return columns of a table as dicts; none where the table does not exist."""
        if not self.exists(table):
            return []
        return self.hold(
            ("rows", table, tuple(columns), tuple(sorted(where.items()))),
            [table],
            lambda: self.lake.rows(table, columns, where).to_pylist(maps_as_pydicts="lossy"),
        )

    def newest(
        self, table: str, columns: Sequence[str], by: str, most: int, **where: str | int
    ) -> list[dict[str, Any]]:
        """Return the rows with the largest values of a column, largest first; none where there is no table."""
        if not self.exists(table):
            return []

        def read() -> list[dict[str, Any]]:
            rows = self.lake.rows(table, columns, where)
            order = pc.sort_indices(rows, [(by, "descending")])[:most]
            found: list[dict[str, Any]] = rows.take(order).to_pylist(maps_as_pydicts="lossy")
            return found

        return self.hold(("newest", table, tuple(columns), by, most, tuple(sorted(where.items()))), [table], read)


def live_row(lake: Lake) -> dict[str, Any] | None:
    """Return the row of the live model; None: none is published."""
    columns = ("model_version", "previous_version", "published_at", "decision_id")
    rows = lake.rows("live_model", columns, {"name": LIVE_NAME}).to_pylist()
    return rows[0] if rows else None


def titles(lake: Lake) -> dict[str | int, str]:
    """Return the titles of the items that have one, by id."""
    rows = lake.rows("items", ("item_id", "title"))
    rows = rows.filter(rows["title"].is_valid())
    return dict(zip(rows["item_id"].to_pylist(), rows["title"].to_pylist(), strict=True))
