"""Tables written by delta-rs, in the types that the contracts give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lakefactor.config import Tables
from lakefactor.contracts import IdType
from lakefactor.query import Reader
from lakefactor.testing.warehouse import append


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folder of the tables; its name has what a path may have."""
    return tmp_path / "läke house's"


@pytest.fixture
def write(root: Path) -> Callable[..., None]:
    """Append rows to a table of `root`; columns that a row leaves out get a value that no test looks at."""

    def write_rows(table: str, rows: Sequence[dict[str, Any]], ids: IdType = "string") -> None:
        append(root, table, rows, ids)

    return write_rows


@pytest.fixture
def reader(root: Path) -> Reader:
    return Reader(Tables(root=str(root)))
