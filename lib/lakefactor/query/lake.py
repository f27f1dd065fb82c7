"""Delta tables under ``tables.root``, opened by name, as Arrow datasets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import and_
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from lakefactor.config import Tables
from lakefactor.contracts.writers import WRITTEN_BY
from lakefactor.errors import ConfigError, TableError

Where = Mapping[str, str | int]
"""Values that columns must have, all of them."""


class Lake:
    """The Delta tables of one root, each opened at its newest version whenever it is asked for.

    Parameters
    ----------
    config : lakefactor.config.Tables
        Only ``root`` is used.

    Raises
    ------
    ConfigError
        ``tables.root`` is empty: without Spark there is no catalog to ask where the tables are.
    """

    def __init__(self, config: Tables) -> None:
        if not config.root:
            raise ConfigError(
                f"tables.root is empty (tables.catalog is {config.catalog!r}), but a query reads tables by path and "
                "asks no catalog; give the folder or URI that holds the tables, by --root"
            )
        self._root = config.root if ":" in config.root else str(Path(config.root).absolute())

    def uri(self, table: str) -> str:
        """Return the folder or URI of `table`."""
        return f"{self._root.rstrip('/')}/{table}"

    def open(self, table: str, version: int | None = None) -> DeltaTable:
        """Return `table` at a version, or at its newest.

        Raises
        ------
        TableError
            It does not exist, or cannot be read.
        """
        try:
            return DeltaTable(self.uri(table), version=version)
        except TableNotFoundError:
            command = WRITTEN_BY.get(table)
            advice = f"'lakefactor {command}' creates it" if command else "no command creates it"
            raise TableError(
                f"table {table} does not exist at {self.uri(table)}; {advice} (or tables.root is wrong)"
            ) from None
        except (DeltaError, OSError) as error:
            raise self._unreadable(table, error) from error

    def exists(self, table: str) -> bool:
        """Tell whether `table` has been created."""
        try:
            return DeltaTable.is_deltatable(self.uri(table))
        except (DeltaError, OSError) as error:
            raise self._unreadable(table, error) from error

    def schema(self, table: str) -> pa.Schema:
        """Return the Arrow schema of `table`."""
        return pa.schema(self.open(table).schema().to_arrow())

    def dataset(self, table: str, where: Where | None = None, version: int | None = None) -> ds.Dataset:
        """Return the rows of `table`, at a version or at its newest, whose columns have these values.

        Files that cannot hold any are never read.

        A table with deletion vectors is beyond pyarrow's reader: delta-rs reads it, and the matching rows are held in
        memory.
        """
        opened = self.open(table, version)
        try:
            if "deletionVectors" not in (opened.protocol().reader_features or ()):
                dataset = opened.to_pyarrow_dataset()
                return dataset.filter(_expression(where)) if where else dataset
            schema = pa.schema(opened.schema().to_arrow())
            return ds.dataset(pa.Table.from_batches(_batches(opened, schema, where), schema))
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise self._unreadable(table, error) from error

    def rows(self, table: str, columns: Sequence[str], where: Where | None = None) -> pa.Table:
        """Return `columns` of the rows that have the values of `where`, in no particular order.

        Raises
        ------
        TableError
            The table or a column of it is missing, or its files cannot be read.
        """
        dataset = self.dataset(table, where)
        if missing := [name for name in columns if name not in dataset.schema.names]:
            raise TableError(f"table {table} at {self.uri(table)} lacks the columns {', '.join(missing)}; migrate it")
        try:
            return dataset.to_table(columns=list(columns))
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise self._unreadable(table, error) from error

    def _unreadable(self, table: str, error: Exception) -> TableError:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return TableError(
            f"table {table} cannot be read from {self.uri(table)}: {reason}; check tables.root, the access to it, and "
            "that the job that writes the table has ended without an error"
        )


def _expression(where: Where) -> pc.Expression:
    return reduce(and_, (pc.field(name) == value for name, value in where.items()))


def _batches(opened: DeltaTable, schema: pa.Schema, where: Where | None) -> Iterator[pa.RecordBatch]:
    """Stream the live rows in the table's own types; delta-rs hands out string views, which pyarrow cannot filter."""
    known = {name: value for name, value in (where or {}).items() if name in schema.names}
    predicate = " AND ".join(f'"{name}" = {_literal(value)}' for name, value in known.items()) or None
    for batch in opened.scan(predicate=predicate):
        yield pa.record_batch(batch).cast(schema)


def _literal(value: str | int) -> str:
    """Return a value as DataFusion's SQL has it: a backslash is nothing special.

    >>> _literal("it's"), _literal(7)
    ("'it''s'", '7')
    """
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
