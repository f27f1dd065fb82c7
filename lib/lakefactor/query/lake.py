"""Delta tables opened by name, without Spark: as Arrow datasets, and for small commits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from itertools import chain
from operator import and_

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from lakefactor.config import Tables
from lakefactor.contracts.writers import absent
from lakefactor.errors import TableError
from lakefactor.query.places import places

_SCHEMES = ("file", "s3", "s3a", "gs", "az", "abfs", "abfss")
_UNHOSTLY = frozenset("[]\\^|")
"""Signs that are in no host's name."""

BATCH_ROWS = 1 << 16
Where = Mapping[str, str | int]
"""Values that columns must have, all of them."""


class Lake:
    """The Delta tables of one root or catalog schema, each opened at its newest version whenever it is asked for.

    Parameters
    ----------
    config : lakefactor.config.Tables

    Raises
    ------
    ConfigError
        ``root`` is empty, and there is no metastore to ask where the tables are: only Spark finds them.
    """

    def __init__(self, config: Tables) -> None:
        self._places = places(config)
        self._root = config.root

    def uri(self, table: str) -> str:
        """Return the folder or URI of `table`; its name in the catalog, if that has no such table.

        Raises
        ------
        TableError
            The metastore does not answer.
        """
        return self._places(table)

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
            raise TableError(absent(table, self.uri(table))) from None
        except (DeltaError, OSError) as error:
            raise self._unreadable(table, error) from error

    def exists(self, table: str) -> bool:
        """Tell whether `table` has been created."""
        try:
            return DeltaTable.is_deltatable(self.uri(table))
        except (DeltaError, OSError) as error:
            raise self._unreadable(table, error) from error

    def version(self, table: str) -> int:
        """Return the newest Delta version of `table`."""
        return int(self.open(table).version())

    def state(self, table: str) -> tuple[str, int] | None:
        """Return identity and newest Delta version of `table`; None: it does not exist.

        As long as both are the same, so are its rows.

        Raises
        ------
        TableError
            Its log cannot be read.
        """
        try:
            if not DeltaTable.is_deltatable(self.uri(table)):
                return None
            opened = DeltaTable(self.uri(table))
            return str(opened.metadata().id), int(opened.version())
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

    def of_ids(
        self, table: str, columns: Sequence[str], key: str, ids: pa.Array, version: int | None = None
    ) -> pa.Table:
        """Return `columns` of the rows whose `key` is one of `ids`, in no particular order.

        Files and row groups that cannot hold any, by their statistics, are not read.

        Returns
        -------
        pyarrow.Table
            Texts are dictionary-encoded, as the files have them: no id is made a string that nobody asks for.

        Raises
        ------
        TableError
            As `rows`.
        """
        opened = self.open(table, version)
        wanted = pc.field(key).isin(ids)
        try:
            if "deletionVectors" in (opened.protocol().reader_features or ()):
                return encoded(self.dataset(table, version=version).to_table(columns=list(columns), filter=wanted))
            known = pa.schema(opened.schema().to_arrow())
            schema = pa.schema([(n, _encoded_type(known.field(n).type)) for n in dict.fromkeys([*columns, key])])
            files = opened.to_pyarrow_dataset().get_fragments(filter=wanted)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                parts = pool.map(lambda file: _of_ids(file.subset(filter=wanted), schema, key, ids), files)
                return pa.Table.from_batches(chain.from_iterable(parts), schema).select(columns)
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise self._unreadable(table, error) from error

    @property
    def is_writable(self) -> bool:
        """Whether `append` works here: delta-rs 1.6 makes a host of the folder's name when it writes, and panics."""
        return not _UNHOSTLY & set(self._root)

    def append(
        self,
        table: str,
        rows: pa.Table,
        txn: tuple[str, int] | None = None,
        metadata: str | None = None,
    ) -> None:
        """Append rows in one commit. A table with clustering is beyond delta-rs.

        Parameters
        ----------
        table : str
        rows : pyarrow.Table
            Has every column of the table, in any order.
        txn : (str, int), optional
            Application id and version of this write. A repeat of a pair, or a lower version, is skipped.
        metadata : str, optional
            Kept in the commit, where Delta calls it ``userMetadata``.

        Raises
        ------
        TableError
            A row is not as the table's constraints say, somebody wrote with the same `txn` at this moment, or the
            table cannot be written.
        """
        opened = self.open(table)
        if txn is not None:
            done = opened.transaction_version(txn[0])
            if done is not None and done >= txn[1]:
                return
        properties = CommitProperties(
            custom_metadata=None if metadata is None else {"userMetadata": metadata},
            app_transactions=None if txn is None else [Transaction(*txn)],
        )
        schema = pa.schema(opened.schema().to_arrow())
        try:
            write_deltalake(opened, rows.select(schema.names).cast(schema), mode="append", commit_properties=properties)
        except (DeltaError, OSError, ValueError) as error:  # the last of Arrow: a null where none may be
            raise TableError(f"table {table} at {self.uri(table)} cannot be written: {_reason(error)}") from error

    def _unreadable(self, table: str, error: Exception) -> TableError:
        return TableError(
            f"table {table} cannot be read from {self.uri(table)}: {_reason(error)}; check tables.root, the access "
            "to it, and that the job that writes the table has ended without an error"
        )


def reachable(config: Tables) -> bool:
    """Tell whether the tables lie where delta-rs finds them without Spark: in a folder, or in an object store.

    >>> [reachable(Tables(root=root)) for root in ("warehouse", "s3a://lake/tables", "hdfs://lake/tables")]
    [True, True, False]
    """
    scheme, colon, _ = config.root.partition(":")
    return bool(scheme) and (not colon or scheme in _SCHEMES)


def encoded(table: pa.Table) -> pa.Table:
    """Return the table with its texts dictionary-encoded; its schema is names and types, and nothing else.

    >>> encoded(pa.table({"id": ["a", "a"], "n": [1, 2]})).schema.types
    [DictionaryType(dictionary<values=string, indices=int32, ordered=0>), DataType(int64)]
    """
    return table.cast(pa.schema([(field.name, _encoded_type(field.type)) for field in table.schema]))


def _encoded_type(kind: pa.DataType) -> pa.DataType:
    """Return what Arrow reads a column of this type as where texts are to be dictionaries."""
    return pa.dictionary(pa.int32(), pa.string()) if pa.types.is_string(kind) else kind


def _of_ids(file: ds.ParquetFileFragment, schema: pa.Schema, key: str, ids: pa.Array) -> list[pa.RecordBatch]:
    """Return the file's rows whose `key` is one of `ids`, read in batches that fit the processor's cache."""
    texts = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    # Statistics tell nothing of a dictionary column: row groups are chosen first, by the file's own types.
    encoded = ds.ParquetFileFormat(read_options=ds.ParquetReadOptions(dictionary_columns=texts))
    if not (groups := [group.id for group in file.row_groups]):
        return []
    chosen = encoded.make_fragment(file.path, file.filesystem, row_groups=groups)
    batches = chosen.to_batches(columns=schema.names, schema=schema, batch_size=BATCH_ROWS, use_threads=False)
    return [batch.filter(_is_one_of(batch[key], ids)) for batch in batches]


def _is_one_of(keys: pa.Array, ids: pa.Array) -> pa.Array:
    """Return for each key whether it is one of `ids`; Arrow's own test knows no dictionaries."""
    if not pa.types.is_dictionary(keys.type):
        return pc.is_in(keys, value_set=ids)
    return pc.is_in(keys.dictionary, value_set=ids).take(keys.indices)


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


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
