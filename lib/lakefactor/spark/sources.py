"""Raw rows of files and tables, as they were found.

Text is read as text: no type is guessed, so no id loses its leading zeros. Every row keeps all its own columns, the
file that it is from, and, where it could not be split into fields, its line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

from pyspark.sql import Column, DataFrame, DataFrameReader, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BooleanType,
    DataType,
    DateType,
    DecimalType,
    IntegralType,
    NumericType,
    StringType,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from lakefactor import config as settings
from lakefactor.config import Ingest
from lakefactor.contracts import IdType
from lakefactor.errors import ConfigError, InputError
from lakefactor.spark.files import FileSet, find_files, header_of, refused, without_patterns
from lakefactor.spark.roles import Roles, assign_message_roles, assign_roles
from lakefactor.spark.tables import Tables
from lakefactor.types import SIDES, Side

SOURCE = "_lakefactor_source"
LINE = "_lakefactor_line"
TEXT = "_lakefactor_text"
POSITION = "_lakefactor_position"
HEADERLESS_COLUMNS = ("user", "item", "value", "time")

_READABLE: dict[str, tuple[str, tuple[type[DataType], ...]]] = {
    "value": ("a number", (StringType, NumericType, BooleanType)),
    "time": ("a time", (StringType, NumericType, TimestampType, TimestampNTZType, DateType)),
    "type": ("an event type", (StringType,)),
}


@dataclass(frozen=True)
class RawRows:
    """Rows of files, or messages, that have the same columns.

    Attributes
    ----------
    frame : DataFrame
        The source's own columns, SOURCE (xxhash64 of the file's URI), and LINE (text of a malformed line, else null).
        Messages also have TEXT (as they were found) and POSITION (offset).
    columns : tuple of str
        The source's own columns.
    roles : Roles
    integral_ids : dict of Side to bool
        Whether a side's ids are integers by the file's own types; never true of CSV.
    files : FileSet
        The files, or the topic, that the rows are from.
    value_may_be_empty : bool
        Whether an empty value means 1; else the row is refused.
    """

    frame: DataFrame
    columns: tuple[str, ...]
    roles: Roles
    integral_ids: dict[Side, bool]
    files: FileSet
    value_may_be_empty: bool


def read_sources(spark: SparkSession, ingest: Ingest, paths: Sequence[str]) -> list[RawRows]:
    """Read files, folders and Delta tables; see `find_files` for what a path may be.

    Raises
    ------
    InputError
        A path leads nowhere, a file is empty or unreadable, or its columns are not understood.
    """
    raw = []
    for files in find_files(spark, paths, ingest.format):
        found = read_files(spark, ingest, files)
        if not found:
            raise InputError(f"input {files.place} has no lines; give a file with rows")
        raw += found
    return raw


def read_files(spark: SparkSession, ingest: Ingest, files: FileSet) -> list[RawRows]:
    """Read one set of files: CSV by header, and nothing where CSV files have no lines; other formats together."""
    if files.format == "csv":
        return _read_csv(spark, files, ingest)
    return [_read_json(spark, files, ingest) if files.format == "json" else _read_typed(spark, files, ingest)]


def read_messages(messages: DataFrame, topic: str, keys: Sequence[str], ingest: Ingest) -> RawRows:
    """Read messages that are JSON objects, as JSON lines are read; others are malformed.

    What becomes of a message does not depend on the others: one without a value has the value 1, unless
    ``ingest.value_column`` says that there is to be one (and no ``ingest.type_column`` that there need not be).

    Parameters
    ----------
    messages : DataFrame
        ``partition, offset, text``.
    topic : str
        Names the source of every row, ``kafka:topic/partition``, and nothing else.
    keys : sequence of str
        Keys that any of the messages has.
    ingest : Ingest

    Raises
    ------
    InputError
        Several keys could be the user's, the item's, ...
    """
    place = f"kafka:{topic}"
    roles = assign_message_roles(sorted(keys), ingest, place)
    columns = tuple(name for name in (roles.user, roles.item, roles.value, roles.time, roles.type) if name is not None)
    options = {"columnNameOfCorruptRecord": LINE}
    fields = F.from_json("text", _text_schema(columns), options)
    no_object = F.json_object_keys("text").isNull()
    frame = messages.select(
        *(fields.getField(name).alias(name) for name in columns),
        F.when(no_object, F.coalesce("text", F.lit(""))).otherwise(fields.getField(LINE)).alias(LINE),
        F.xxhash64(F.concat(F.lit(f"{place}/"), "partition")).alias(SOURCE),
        F.col("text").alias(TEXT),
        F.col("offset").alias(POSITION),
    )
    may_be_empty = not ingest.value_column or bool(ingest.type_column)
    return RawRows(frame, columns, roles, dict.fromkeys(SIDES, False), FileSet("kafka", (place,)), may_be_empty)


def source_names(spark: SparkSession, raw: Sequence[RawRows]) -> DataFrame:
    """Return `source_hash` (as SOURCE) and `source` (path) of every file or table in `raw`, each once."""
    names = []
    for rows in raw:
        if rows.files.format == "delta":
            paths = spark.createDataFrame([(rows.files.place,)], "path string")
            uri = F.col("path")
        else:  # Spark lists the files without opening them, and names them as it does in their rows
            paths = _load(_reader(spark, replace(rows.files, format="binaryFile")), rows.files.paths)
            uri = _uri(paths)
        names.append(paths.select(F.xxhash64(uri).alias("source_hash"), F.col("path").alias("source")))
    return reduce(DataFrame.unionAll, names).distinct()


def decide_id_types(tables: Tables, config: settings.Tables, raw: Sequence[RawRows]) -> tuple[IdType, IdType]:
    """Decide the types of ids: as table `events` has them, else as configured, else as the input has them.

    Raises
    ------
    ConfigError
        The configured type is not the one that `events` has.
    """
    existing = dict(zip(SIDES, tables.id_types("events"), strict=True)) if tables.exists("events") else {}

    def decide(side: Side) -> IdType:
        configured = config.user_id_type if side == "user" else config.item_id_type
        if side not in existing:
            observed: IdType = "long" if all(rows.integral_ids[side] for rows in raw) else "string"
            return observed if configured == "auto" else configured
        if configured not in ("auto", existing[side]):
            raise ConfigError(
                f"tables.{side}_id_type is {configured}, but {side}_id of table events at "
                f"{tables.path_or_name('events')} is {existing[side]}; set it to auto, or use another tables.root"
            )
        return existing[side]

    return decide("user"), decide("item")


def _read_csv(spark: SparkSession, files: FileSet, ingest: Ingest) -> list[RawRows]:
    """Read CSV files, those with the same header together."""
    by_header: dict[tuple[str, ...], list[str]] = {}
    for path in files.paths:
        header = header_of(spark, path, ingest.delimiter)
        if header is not None:
            by_header.setdefault(_names(header, ingest.header, path), []).append(path)
    raw = []
    for names, paths in by_header.items():
        reader = (
            _reader(spark, files)
            .schema(_text_schema(names))
            .option("header", ingest.header)
            .option("sep", ingest.delimiter)
            .option("escape", '"')  # a quote within quotes is doubled, as RFC 4180 has it
            .option("columnNameOfCorruptRecord", LINE)
            .option("columnPruning", False)  # or else the number of fields goes unchecked
        )
        raw.append(_raw(_with_source(_load(reader, paths)), replace(files, paths=tuple(paths)), paths[0], ingest))
    return raw


def _names(header: tuple[str, ...], has_header: bool, path: str) -> tuple[str, ...]:
    """Return unique column names for the fields of a first line.

    >>> _names(("user", "item", ""), True, "a.csv"), _names(("7", "8"), False, "b.csv")
    (('user', 'item', 'column_3'), ('user', 'item'))
    """
    if not has_header:
        header = HEADERLESS_COLUMNS[: len(header)] + ("",) * (len(header) - len(HEADERLESS_COLUMNS))
    names = tuple(name if name.strip() else f"column_{number}" for number, name in enumerate(header, 1))
    lowered = [name.lower() for name in names]
    if twice := [name for name in names if lowered.count(name.lower()) > 1]:
        raise InputError(f"{path} has more than one column {twice[0]!r}; rename one")
    return names


def _read_json(spark: SparkSession, files: FileSet, ingest: Ingest) -> RawRows:
    """Read JSON lines: once for the columns and their types, then as text."""
    reader = _reader(spark, files).option("columnNameOfCorruptRecord", LINE)
    with refused(f"input {files.place} cannot be read as JSON lines"):
        types = _load(reader, files.paths).schema
    schema = _text_schema([name for name in types.names if name != LINE])
    return _raw(_with_source(_load(reader.schema(schema), files.paths)), files, files.place, ingest, types)


def _read_typed(spark: SparkSession, files: FileSet, ingest: Ingest) -> RawRows:
    """Read Parquet files or a Delta table."""
    with refused(f"input {files.place} cannot be read as {files.format}"):
        if files.format == "delta":  # the table is the source; its files come and go with every OPTIMIZE
            frame = spark.read.format("delta").load(files.place)
            frame = frame.withColumn(SOURCE, F.xxhash64(F.lit(files.place)))
        else:
            frame = _with_source(_load(_reader(spark, files).option("mergeSchema", True), files.paths))
    return _raw(frame.withColumn(LINE, F.lit(None).cast("string")), files, files.place, ingest)


def _raw(frame: DataFrame, files: FileSet, place: str, ingest: Ingest, types: StructType | None = None) -> RawRows:
    """Find the roles, and refuse columns of a type that cannot play them."""
    columns = tuple(name for name in frame.columns if name not in (SOURCE, LINE))
    roles = assign_roles(columns, ingest, place)
    kinds = {field.name: field.dataType for field in types or frame.schema}
    for role, (meaning, readable) in _READABLE.items():
        column = getattr(roles, role)
        if column is not None and not isinstance(kinds[column], readable):
            raise InputError(
                f"{place}: column {column!r} is {kinds[column].simpleString()}, which is not read as {meaning}; "
                f"convert it, or correct ingest.{role}_column"
            )
    integral = {side: _is_integral(kinds[getattr(roles, side)]) for side in SIDES}
    for side in SIDES:
        column = getattr(roles, side)
        if not (integral[side] or isinstance(kinds[column], StringType)):
            raise InputError(
                f"{place}: column {column!r} is {kinds[column].simpleString()}; {side} ids are texts or 64-bit "
                f"integers; convert it, or correct ingest.{side}_column"
            )
    return RawRows(frame, columns, roles, integral, files, value_may_be_empty=roles.type is not None)


def _is_integral(kind: DataType) -> bool:
    return isinstance(kind, IntegralType) or (isinstance(kind, DecimalType) and kind.scale == 0)


def _text_schema(names: Sequence[str]) -> StructType:
    schema = StructType()
    for name in [*names, LINE]:
        schema = schema.add(name, StringType())
    return schema


def _reader(spark: SparkSession, files: FileSet) -> DataFrameReader:
    """Return a reader of files whose paths are given by `_load`."""
    reader = spark.read.format(files.format)
    return reader.option("basePath", files.base) if files.base else reader


def _load(reader: DataFrameReader, paths: Sequence[str]) -> DataFrame:
    return reader.load([without_patterns(path) for path in paths])


def _with_source(frame: DataFrame) -> DataFrame:
    return frame.withColumn(SOURCE, F.xxhash64(_uri(frame)))


def _uri(frame: DataFrame) -> Column:
    return frame.metadataColumn("_metadata").getField("file_path")
