"""Delta tables by their contract name: created, checked, read at a version, and written once.

The only module that knows where a table lives (a folder under ``tables.root``, or a name in ``tables.catalog``). Every
table is created from its contract and compared with it whenever it is opened, so a job never computes on a table that
is not what it thinks.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, DataFrameWriterV2, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import LongType, StructType

from lakefactor import config as settings
from lakefactor.contracts import IdType, by_name, by_path, literal, load
from lakefactor.contracts.writers import absent
from lakefactor.errors import ShapeError, TableError
from lakefactor.query.lake import Lake, Where, reachable
from lakefactor.spark.files import at, names_in

STAGED = "_staged_commits"
"""Folder that Delta makes in a log before the first commit."""


class Tables:
    """The Delta tables of one root or catalog schema.

    Parameters
    ----------
    spark : SparkSession
        Session that reads; writes use the session of the rows that are written.
    config : lakefactor.config.Tables
        ``root`` or ``catalog``.

    Raises
    ------
    TableError
        From every method that opens a table: the table, the version or a column is missing or not as its contract says.
    """

    def __init__(self, spark: SparkSession, config: settings.Tables) -> None:
        self._spark = spark
        self._root = config.root if not config.root or ":" in config.root else str(Path(config.root).absolute())
        self._catalog = config.catalog
        self._lake = Lake(config) if reachable(config) else None

    def path_or_name(self, table: str) -> str:
        """Return the folder or URI of `table`, or its name in the catalog."""
        name = load(table).name
        return f"{self._root.rstrip('/')}/{name}" if self._root else f"{self._catalog}.{name}"

    def sql_name(self, table: str) -> str:
        """Return `table` as SQL text names it, quoted."""
        return by_path(self.path_or_name(table)) if self._root else by_name(self._catalog, load(table).name)

    def location(self, table: str) -> str:
        """Return the folder or URI of `table`, wherever it is known from."""
        return self.path_or_name(table) if self._root else str(self._detail(table)["location"])

    def exists(self, table: str) -> bool:
        """Tell whether `table` has been created."""
        place = self.path_or_name(table)
        return DeltaTable.isDeltaTable(self._spark, place) if self._root else self._spark.catalog.tableExists(place)

    def ensure(self, table: str, user_id_type: IdType = "string", item_id_type: IdType = "string") -> None:
        """Create `table` from its contract, or check the one that is there.

        Parameters
        ----------
        table : str
            Name of a contract.
        user_id_type, item_id_type : {"string", "long"}
            Types of the id columns.
        """
        if self.exists(table):
            self._check(table, self._open(table).schema, (user_id_type, item_id_type))
            return
        with self._refused(f"table {table} cannot be created at {self.path_or_name(table)}"):
            if self._root:
                self._remove_unborn(table)
            else:
                self._spark.sql(f"CREATE SCHEMA IF NOT EXISTS {self.sql_name(table).rpartition('.')[0]}")
            for statement in load(table).ddl(self.sql_name(table), None, user_id_type, item_id_type):
                self._spark.sql(statement)
        if not self.exists(table):  # Delta takes any folder with something in it for the table, and does nothing
            raise TableError(
                f"table {table} cannot be created at {self.path_or_name(table)}: something else is there; "
                "move it away, or use another tables.root"
            )

    def id_types(self, table: str) -> tuple[IdType, IdType]:
        """Return the types of the user and item ids in `table`, each "string" or "long".

        A column that the table lacks counts as "string".
        """
        return _id_types(self.read(table).schema)

    def read(self, table: str, version: int | None = None) -> DataFrame:
        """Return the rows of `table`.

        Parameters
        ----------
        table : str
            Name of a contract.
        version : int, optional
            Delta version; None: the newest when the rows are asked for.
        """
        frame = self._open(table, version)
        self._check(table, frame.schema, _id_types(frame.schema))
        return frame

    def changes(self, table: str, first: int, last: int) -> DataFrame:
        """Return the rows that the commits of some versions inserted, with `_commit_version`; it has a change feed."""
        place = self.path_or_name(table)
        reader = self._spark.read.format("delta").option("readChangeFeed", "true")
        reader = reader.option("startingVersion", first).option("endingVersion", last)
        with self._refused(f"the changes of table {table} at {place} from version {first} to {last} cannot be read"):
            frame = reader.load(place) if self._root else reader.table(place)
            return frame.where(F.col("_change_type") == "insert")

    def version(self, table: str) -> int:
        """Return the newest Delta version of `table`."""
        if self._lake:
            return self._lake.version(table)
        newest = self.history(table, 1).first()
        assert newest is not None
        return int(newest["version"])

    def rows(self, table: str, columns: Sequence[str], where: Where | None = None) -> pa.Table:
        """Return `columns` of the rows that have the values of `where`, in no particular order.

        Where the table lies in a folder or an object store, no Spark job is needed.
        """
        if self._lake:
            return self._lake.rows(table, columns, where)
        frame = self.read(table)
        for name, value in (where or {}).items():
            frame = frame.where(F.col(name) == value)
        return frame.select(*columns).toArrow()

    def collect(self, table: str, where: Where | None = None) -> list[dict[str, Any]]:
        """Return rows of a small table, each by the names of all its columns; otherwise as `rows`."""
        columns = [column.name for column in load(table).columns]
        return self.rows(table, columns, where).to_pylist(maps_as_pydicts="strict")

    def uid(self, table: str) -> str:
        """Return Delta's own id of `table`; a table that was dropped and created again has another."""
        return str(self._detail(table)["id"])

    def history(self, table: str, limit: int | None = None) -> DataFrame:
        """Return the commits of `table`, newest first; with a limit Delta reads no more of them than that."""
        self._open(table)
        history = f"DESCRIBE HISTORY {self.sql_name(table)}"
        return self._spark.sql(history if limit is None else f"{history} LIMIT {limit}")

    def append(
        self,
        table: str,
        rows: DataFrame | pa.Table,
        txn: tuple[str, int] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Append `rows`: Spark's, or Arrow's, which are committed without a Spark job where the table allows that.

        Parameters
        ----------
        table : str
            Name of a contract; the table exists.
        rows : DataFrame or pyarrow.Table
            Has every column of the table, in any order.
        txn : (str, int), optional
            Application id and version of this write. A repeat of a pair, or a lower version, is skipped by Delta.
        metadata : mapping, optional
            JSON-able; kept in the commit (see `lakefactor.spark.commits`).
        """
        kept = None if metadata is None else json.dumps(metadata, sort_keys=True)
        if isinstance(rows, pa.Table):
            if lake := self._writing_lake(table):
                lake.append(table, rows, txn, kept)
                return
            rows = self._spark.createDataFrame(rows)
        writer = self._writer(table, rows)
        if kept is not None:
            writer = writer.option("userMetadata", kept)
        if txn is not None:
            writer = writer.option("txnAppId", txn[0]).option("txnVersion", str(txn[1]))
        writer.append()

    def append_rows(self, table: str, rows: Sequence[Mapping[str, Any]], txn: tuple[str, int] | None = None) -> None:
        """Append a few rows, each by the names of its columns; `txn` as in `append`."""
        if lake := self._writing_lake(table):
            lake.append(table, pa.Table.from_pylist(rows, schema=lake.schema(table)), txn)
        else:
            self.append(table, self._spark.createDataFrame(rows, self.read(table).schema), txn)

    def overwrite(self, table: str, rows: DataFrame, metadata: Mapping[str, Any]) -> None:
        """Replace all rows in one commit that carries `metadata` (JSON-able)."""
        self._writer(table, rows).option("userMetadata", json.dumps(metadata, sort_keys=True)).overwrite(F.lit(True))

    def replace_where(
        self, table: str, rows: DataFrame, predicate: str, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Replace the rows that match `predicate` (SQL) in one commit; every new row must match it too.

        `metadata` as in `append`.
        """
        writer = self._writer(table, rows)
        if metadata is not None:
            writer = writer.option("userMetadata", json.dumps(metadata, sort_keys=True))
        writer.overwrite(F.expr(predicate))

    def replace_ids(self, table: str, rows: DataFrame, model_version: str, key: str, ids: Sequence[str | int]) -> None:
        """Replace the rows of a version that belong to `ids` in one commit.

        Parameters
        ----------
        table : str
            Name of a contract with the column ``model_version``.
        rows : DataFrame
            New rows, of this version and of no other ids: Delta's own test of that compares each row with each id, a
            hundred times the cost of the write, and is left out.
        model_version : str
        key : str
            The id column.
        ids : sequence of str or int
        """
        conf, check = rows.sparkSession.conf, "spark.databricks.delta.replaceWhere.constraintCheck.enabled"
        values = ", ".join(literal(name) if isinstance(name, str) else str(name) for name in ids)
        before = conf.get(check, "true")
        conf.set(check, "false")
        try:
            self.replace_where(table, rows, f"model_version = {literal(model_version)} AND {key} IN ({values})")
        finally:
            conf.set(check, before or "true")

    def merge_new(self, table: str, rows: DataFrame, key: Sequence[str]) -> int:
        """Insert the rows whose key is not in `table` yet, and return how many those were.

        Nothing new means no new version. A key must not occur twice in `rows`. An insert-only MERGE against an empty
        table plans as an append, so there is no second way.
        """
        return self._merge(table, rows, _same(key), "")

    def merge_all(self, table: str, rows: DataFrame, key: Sequence[str], differs: str) -> int:
        """Insert the rows whose key is new, and replace those for which `differs` (SQL over ``old``, ``new``) holds."""
        return self._merge(table, rows, _same(key), f"WHEN MATCHED AND {differs} THEN UPDATE SET *")

    def merge_newer(self, table: str, rows: DataFrame, model_version: str, key: str) -> int:
        """Insert the rows whose key is new; replace the rows of a smaller batch_id; return how many both were.

        Parameters
        ----------
        table : str
            Name of a contract with the columns ``model_version`` and ``batch_id``.
        rows : DataFrame
            Rows of `model_version` alone; a key must not occur twice.
        model_version : str
            Files of other versions are left out by their statistics.
        key : str
            Column that names a row of the version.
        """
        of_version = f"old.model_version = {literal(model_version)} AND {_same([key])}"
        return self._merge(table, rows, of_version, "WHEN MATCHED AND new.batch_id > old.batch_id THEN UPDATE SET *")

    def update(
        self, table: str, rows: DataFrame, key: Sequence[str], columns: Sequence[str], gone: str = "false"
    ) -> None:
        """Replace `columns` of the rows whose key is in `rows`, and delete those for which `gone` (SQL) holds.

        Parameters
        ----------
        table : str
            Name of a contract.
        rows : DataFrame
            ``key`` and ``columns``; a key must not occur twice.
        key : sequence of str
        columns : sequence of str
            None: rows are only deleted.
        gone : str, optional
            Condition over ``old`` and ``new``.
        """
        source = f"update_{uuid.uuid4().hex}"
        rows.createOrReplaceTempView(source)
        values = ", ".join(f"old.`{name}` = new.`{name}`" for name in columns)
        changed = f" WHEN MATCHED THEN UPDATE SET {values}" if columns else ""
        try:
            rows.sparkSession.sql(
                f"MERGE INTO {self.sql_name(table)} AS old USING {source} AS new ON {_same(key)} "
                f"WHEN MATCHED AND {gone} THEN DELETE{changed}"
            )
        finally:
            rows.sparkSession.catalog.dropTempView(source)

    def delete(self, table: str, predicate: str) -> int:
        """Delete the rows that match `predicate` (SQL, which stays in the history: no ids), and return how many."""
        outcome = self._spark.sql(f"DELETE FROM {self.sql_name(table)} WHERE {predicate}").first()
        assert outcome is not None
        return int(outcome["num_affected_rows"])

    def _merge(self, table: str, rows: DataFrame, condition: str, when_matched: str) -> int:
        source = f"merge_{uuid.uuid4().hex}"
        self._conform(table, rows).createOrReplaceTempView(source)
        try:
            outcome = rows.sparkSession.sql(
                f"MERGE INTO {self.sql_name(table)} AS old USING {source} AS new ON {condition} "
                f"{when_matched} WHEN NOT MATCHED THEN INSERT *"
            ).first()
        finally:
            rows.sparkSession.catalog.dropTempView(source)
        assert outcome is not None
        return int(outcome["num_inserted_rows"] + outcome["num_updated_rows"])

    def _detail(self, table: str) -> Row:
        self._open(table)
        detail = self._spark.sql(f"DESCRIBE DETAIL {self.sql_name(table)}").first()
        assert detail is not None
        return detail

    def _remove_unborn(self, table: str) -> None:
        """Remove the log without a commit that a process leaves when it is killed while it creates a table.

        Delta takes such a folder for a table when it is to create one, and for none when it is to read it.
        """
        place = self.path_or_name(table)
        log = f"{place}/_delta_log"
        unborn = names_in(self._spark, place) == ["_delta_log"] and names_in(self._spark, log) in ([], [STAGED])
        if unborn and not names_in(self._spark, f"{log}/{STAGED}"):
            files, path = at(self._spark, place)
            files.delete(path, True)

    def _writing_lake(self, table: str) -> Lake | None:
        """Return what commits to `table` without Spark; None where delta-rs cannot: by the place, or clustered."""
        return self._lake if self._lake and self._lake.is_writable and not load(table).cluster_by else None

    def _open(self, table: str, version: int | None = None) -> DataFrame:
        """Return the table's rows, unchecked."""
        place = self.path_or_name(table)
        if not self.exists(table):
            raise TableError(absent(table, place))
        reader = self._spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        at = "" if version is None else f" at version {version}"
        with self._refused(f"table {table} cannot be read from {place}{at}"):
            return reader.load(place) if self._root else reader.table(place)

    def _check(self, table: str, schema: StructType, id_types: tuple[IdType, IdType]) -> None:
        """Compare a schema with the contract, column by column."""
        found = {field.name: field.dataType.simpleString() for field in schema}
        if differences := load(table).differences(found, *id_types):
            raise TableError(
                f"table {table} at {self.path_or_name(table)} is not as its contract says: {'; '.join(differences)}; "
                "use another tables.root or tables.catalog, or migrate the table"
            )

    def _writer(self, table: str, rows: DataFrame) -> DataFrameWriterV2:
        return self._conform(table, rows).writeTo(self.sql_name(table))

    def _conform(self, table: str, rows: DataFrame) -> DataFrame:
        """Return `rows` with the table's columns in the table's order."""
        columns = self.read(table).columns
        if missing := [name for name in columns if name not in rows.columns]:
            raise ShapeError(f"rows for table {table} lack the columns {', '.join(missing)}")
        return rows.select(*columns)

    @contextmanager
    def _refused(self, what: str) -> Iterator[None]:
        """Turn Spark's refusal into a TableError that begins with `what`."""
        try:
            yield
        except AnalysisException as error:
            raise TableError(f"{what}: {str(error).splitlines()[0]}") from error
        except Py4JJavaError as error:
            if "DELTA_LOG_FILE_NOT_FOUND" not in str(error):
                raise
            raise TableError(f"{what}: the log no longer goes back so far") from error


def _same(key: Sequence[str]) -> str:
    return " AND ".join(f"old.`{column}` = new.`{column}`" for column in key)


def _id_types(schema: StructType) -> tuple[IdType, IdType]:
    return _id_type(schema, "user_id"), _id_type(schema, "item_id")


def _id_type(schema: StructType, column: str) -> IdType:
    return "long" if column in schema.names and isinstance(schema[column].dataType, LongType) else "string"
