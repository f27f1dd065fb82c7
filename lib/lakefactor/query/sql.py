"""SQL over the Delta tables by DuckDB: reading only, and nothing but the tables."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
import pyarrow as pa

from lakefactor import contracts
from lakefactor.errors import InputError
from lakefactor.query.lake import Lake
from lakefactor.query.live_factors import LIVE_VIEWS

_LOCKED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,  # no files, no network, no extensions
    "python_enable_replacements": False,  # a table name never means a Python variable
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "lock_configuration": True,
}
_READING = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}


def select(lake: Lake, query: str, views: Mapping[str, str]) -> pa.Table:
    """Run one SELECT over the tables of `lake`, by their names.

    Parameters
    ----------
    lake : Lake
    query : str
        DuckDB SQL. Filters and columns are pushed down to the files.
    views : mapping of str to str
        More names that the query may use, each with its SELECT over the tables.

    Raises
    ------
    InputError
        The query is not one statement that reads, or DuckDB refuses it.
    TableError
        A table that the query names is missing or cannot be read.
    """
    text = "\n".join([query, *views.values()]).lower()
    named = [name for name in contracts.names() if name in text]
    with duckdb.connect(config=_LOCKED) as connection:
        try:
            statements = duckdb.extract_statements(query)
            if len(statements) != 1 or statements[0].type not in _READING:
                raise InputError(f"a query is one SELECT statement; found {_kinds(statements)}")
            for name in named:
                if lake.exists(name):
                    connection.register(name, lake.dataset(name))
            for name, view in views.items():
                connection.execute(f"CREATE VIEW {name} AS {view}")
            return connection.sql(query).to_arrow_table()
        except duckdb.Error as error:
            for name in named:
                if isinstance(error, duckdb.CatalogException) and f"name {name} " in str(error):
                    lake.open(name)  # says which command creates it
            reason = str(error).splitlines()[0]
            tables = ", ".join([*contracts.names(), *LIVE_VIEWS])
            raise InputError(f"DuckDB refused the query: {reason}; the tables are {tables}") from error


def _kinds(statements: list[duckdb.Statement]) -> str:
    return " and ".join(statement.type.name for statement in statements) or "none"
