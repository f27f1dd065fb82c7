"""Table contracts: one YAML file per table in schemas/, from which DDL, checks and docs/tables.md are made.

Knows no Spark: it gives SQL text. Depends on errors alone.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lakefactor.contracts.ddl import by_name, by_path, literal
from lakefactor.contracts.model import Column, IdType, TableContract
from lakefactor.errors import TableError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["Column", "IdType", "TableContract", "by_name", "by_path", "literal", "load", "names"]


def names() -> tuple[str, ...]:
    """Return the names of all tables, sorted.

    >>> "user_factors" in names()
    True
    """
    return tuple(sorted(entry.name[: -len(".yaml")] for entry in _folder().iterdir() if entry.name.endswith(".yaml")))


@cache
def load(name: str) -> TableContract:
    """Return the contract of the table `name`.

    Raises
    ------
    TableError
        There is no such table.

    Examples
    --------
    >>> load("recommendations").key
    ('model_version', 'user_id', 'position')
    """
    if name not in names():
        raise TableError(f"no table is called {name!r}; the tables are {', '.join(names())}")
    return TableContract.model_validate(yaml.safe_load((_folder() / f"{name}.yaml").read_text(encoding="utf-8")))


def _folder() -> Traversable:
    """Find schemas/: part of an installed package, beside ``lib`` in a checkout that is only on the path."""
    try:
        return files("lakefactor.schemas")
    except ModuleNotFoundError:
        return Path(__file__).parents[3] / "schemas"
