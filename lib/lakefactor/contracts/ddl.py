"""Table contract to SQL: CREATE TABLE with its constraints, in one Delta commit.

CHECK constraints are given as table properties of the CREATE. ALTER TABLE ADD CONSTRAINT would do the same in one more
commit, and one more scan, for each.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lakefactor.errors import TableError

if TYPE_CHECKING:
    from lakefactor.contracts.model import Column, TableContract

_PLAIN_NAME = re.compile(r"(`[A-Za-z0-9_]+`\.){0,2}`[A-Za-z0-9_]+`", re.ASCII)
_PATH_NAME = re.compile(r"delta\.`([^`]|``)+`")
_INFINITY = "CAST('Infinity' AS DOUBLE)"


def by_path(path: str) -> str:
    """Return the SQL name of the Delta table in the folder `path`, an absolute path or a URI.

    >>> by_path("/lake/events")
    'delta.`/lake/events`'
    """
    if not (path.startswith("/") or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", path)):
        raise TableError(f"table path {path!r} is relative, and Spark takes no such path; make it absolute")
    return f"delta.{_identifier(path)}"


def by_name(catalog: str, table: str) -> str:
    """Return the SQL name of `table` in a ``schema`` or ``catalog.schema``.

    >>> by_name("main.lake", "events")
    '`main`.`lake`.`events`'
    """
    return _checked(".".join(_identifier(part) for part in [*catalog.split("."), table]))


def literal(text: str) -> str:
    r"""Return a string as SQL text.

    >>> print(literal(r"it's a \ test"))
    'it\'s a \\ test'
    """
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def create_table(contract: TableContract, qualified_name: str, location: str | None, types: dict[str, str]) -> str:
    """Return CREATE TABLE IF NOT EXISTS with columns of `types`, constraints, clustering and properties."""
    columns = [
        f"{_identifier(column.name)} {types[column.name]}{'' if column.nullable else ' NOT NULL'} "
        f"COMMENT {literal(_comment(column))}"
        for column in contract.columns
    ]
    clauses = [
        f"CREATE TABLE IF NOT EXISTS {_checked(qualified_name)} (\n  " + ",\n  ".join(columns) + "\n)",
        "USING DELTA",
        f"COMMENT {literal(contract.grain)}",
    ]
    if location is not None:
        clauses.append(f"LOCATION {literal(location)}")
    if contract.cluster_by:
        clauses.append(f"CLUSTER BY ({', '.join(map(_identifier, contract.cluster_by))})")
    pairs = [f"{literal(key)} = {literal(value)}" for key, value in properties(contract, types).items()]
    clauses.append("TBLPROPERTIES (\n  " + ",\n  ".join(pairs) + "\n)")
    return "\n".join(clauses)


def properties(contract: TableContract, types: dict[str, str]) -> dict[str, str]:
    """Return the table properties: Delta settings and one CHECK constraint for every column that has a range."""
    result = {
        "delta.enableDeletionVectors": str(contract.deletion_vectors).lower(),  # readers must know them
        "lakefactor.contract": contract.name,
    }
    if contract.change_data_feed:
        result["delta.enableChangeDataFeed"] = "true"
    for column in contract.columns:
        if condition := column_check(column, types[column.name]):
            result[f"delta.constraints.{column.name}_valid"] = condition
    return result | {f"delta.constraints.{name}": condition for name, condition in contract.checks.items()}


def column_check(column: Column, sql_type: str) -> str | None:
    """Return the SQL condition that every value of `column` fulfils; None where any value will do.

    Delta takes a CHECK that is NULL as violated, so null is let in by name, and a null element of an array is not. Only
    functions that Spark and DataFusion both have are used, so that Spark and delta-rs can both write.
    """
    name = _identifier(column.name)
    parts = []
    if sql_type.startswith("ARRAY"):
        finite = f"array_max({name}) < {_INFINITY} AND array_min({name}) > -{_INFINITY}"  # NaN is the largest
        parts.append(f"cardinality(array_compact({name})) = cardinality({name})")
        parts.append(finite if column.min_length else f"(cardinality({name}) = 0 OR ({finite}))")
    elif sql_type in ("FLOAT", "DOUBLE") and (column.min is None or column.max is None):
        parts.append(f"abs({name}) < {_INFINITY}")  # false for NaN too: Spark sorts NaN above infinity
    if column.min is not None:
        parts.append(f"{name} >= {column.min}")
    if column.max is not None:
        parts.append(f"{name} <= {column.max}")
    if column.min_length is not None and sql_type != "BIGINT":
        parts.append(
            f"{'cardinality' if sql_type.startswith(('ARRAY', 'MAP')) else 'length'}({name}) >= {column.min_length}"
        )
    if column.one_of:
        parts.append(f"{name} IN ({', '.join(map(literal, column.one_of))})")
    condition = " AND ".join(parts)
    return f"{name} IS NULL OR ({condition})" if condition and column.nullable else condition or None


def _comment(column: Column) -> str:
    return f"{column.meaning} [{column.unit}]" if column.unit else column.meaning


def _checked(qualified_name: str) -> str:
    if not (_PLAIN_NAME.fullmatch(qualified_name) or _PATH_NAME.fullmatch(qualified_name)):
        raise TableError(f"table name {qualified_name} is refused; names have letters, digits and _ only")
    return qualified_name


def _identifier(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
