"""Delta tables under ``tables.root``, opened by name, as Arrow datasets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from lakefactor.config import Tables
from lakefactor.contracts.writers import WRITTEN_BY
from lakefactor.errors import ConfigError, TableError


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

    def dataset(self, table: str, where: pc.Expression | None = None, version: int | None = None) -> ds.Dataset:
        """Return `table`, at a version or at its newest, as a dataset.

        Files and row groups that cannot match `where` are never read.

        A table with deletion vectors is beyond pyarrow's reader, so delta-rs streams it whole and the matching rows are
        held in memory; lakefactor creates its tables without them.
        """
        opened = self.open(table, version)
        try:
            if "deletionVectors" not in (opened.protocol().reader_features or ()):
                dataset = opened.to_pyarrow_dataset()
                return dataset if where is None else dataset.filter(where)
            schema = pa.schema(opened.schema().to_arrow())
            scanner = ds.Scanner.from_batches(_batches(opened, schema), schema=schema, filter=where)
            return ds.dataset(scanner.to_table())
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise self._unreadable(table, error) from error

    def rows(
        self, table: str, columns: Sequence[str], where: pc.Expression | None = None, version: int | None = None
    ) -> pa.Table:
        """Return `columns` of the rows that match `where`, in no particular order.

        Raises
        ------
        TableError
            The table or a column of it is missing, or its files cannot be read.
        """
        dataset = self.dataset(table, where, version)
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


def _batches(opened: DeltaTable, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Stream the live rows in the table's own types; delta-rs hands out string views, which pyarrow cannot filter."""
    for batch in opened.scan():
        yield pa.record_batch(batch).cast(schema)
