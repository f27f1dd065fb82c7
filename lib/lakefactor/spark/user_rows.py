"""Every row that is of some users, in every table: which tables can have such rows is what the contracts say.

Rows are found and deleted by a join with the users, never by a condition that names them: Delta keeps conditions in the
history of a table.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from lakefactor.contracts import TableContract, load, names
from lakefactor.spark.suppression import Suppression
from lakefactor.spark.tables import Tables

ERASURE = "erasures"
"""In the metadata of the commits that delete users' rows."""

_HASH = "user_hash"


@dataclass(frozen=True)
class Users:
    """Some users, by id and by hash.

    Attributes
    ----------
    ids : DataFrame
        ``user_id, user_hash``, each once.
    suppression : Suppression
        Of exactly these.
    delimiter : str
        Of CSV lines that were refused.
    """

    ids: DataFrame
    suppression: Suppression
    delimiter: str


def tables_with_users() -> list[str]:
    """Return the tables whose rows may be of a user: by an id, or by text as a source gave it.

    >>> {"events", "rejects", "user_factors"} <= set(tables_with_users()), "models" in tables_with_users()
    (True, False)
    """
    return [name for name in names() if _user_columns(load(name)) or _raw_columns(load(name))]


def count_rows(tables: Tables, table: str, users: Users) -> dict[str, int]:
    """Return how many rows of a table are of each user, by hash; users without rows are left out."""
    found = _found(tables.read(table), load(table), users)
    return {row[_HASH]: row["count"] for row in found.groupBy(_HASH).count().collect()}


def delete_rows(spark: SparkSession, tables: Tables, table: str, users: Users, metadata: Mapping[str, Any]) -> int:
    """Delete the rows of the users in one commit that carries `metadata`, and return how many.

    Where there are none, nothing is committed.
    """
    contract = load(table)
    columns = _user_columns(contract) or contract.key
    found = _found(tables.read(table, tables.version(table)), contract, users).select(*columns).distinct()
    if found.isEmpty():
        return 0
    view, key = f"erased_{uuid.uuid4().hex}", "spark.databricks.delta.commitInfo.userMetadata"
    found.createOrReplaceTempView(view)
    same = " AND ".join(f"old.`{name}` <=> new.`{name}`" for name in columns)
    spark.conf.set(key, json.dumps(metadata, sort_keys=True))
    try:
        outcome = spark.sql(
            f"MERGE INTO {tables.sql_name(table)} AS old USING {view} AS new ON {same} WHEN MATCHED THEN DELETE"
        ).first()
    finally:
        spark.conf.unset(key)
        spark.catalog.dropTempView(view)
    assert outcome is not None
    return int(outcome["num_deleted_rows"])


def _user_columns(contract: TableContract) -> list[str]:
    return [column.name for column in contract.columns if column.type == "user_id"]


def _raw_columns(contract: TableContract) -> list[str]:
    return [column.name for column in contract.columns if column.raw]


def _found(rows: DataFrame, contract: TableContract, users: Users) -> DataFrame:
    """Return the users' rows, each with the hash of its user."""
    ids = _user_columns(contract)
    if ids:
        known = F.broadcast(users.ids.withColumnRenamed("user_id", "_id"))
        return rows.join(known, F.col(ids[0]) == F.col("_id")).drop("_id")
    texts = rows.select(*contract.key, *_raw_columns(contract))
    schema = StructType([*texts.select(*contract.key).schema, StructField(_HASH, StringType())])
    return texts.mapInArrow(partial(_named, users.suppression, users.delimiter, schema.names), schema)


def _named(
    suppression: Suppression, delimiter: str, columns: list[str], batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Yield the keys of the rows whose texts name users, once for each of these."""
    key = columns[:-1]
    for batch in batches:
        texts = [batch[name].to_pylist() for name in batch.schema.names if name not in key]
        rows, hashes = [], []
        for row, parts in enumerate(zip(*texts, strict=True)):
            for found in sorted(set().union(*(suppression.named_in(part, delimiter) for part in parts if part))):
                rows.append(row)
                hashes.append(found)
        taken = [batch[name].take(pa.array(rows, pa.int64())) for name in key]
        yield pa.RecordBatch.from_arrays([*taken, pa.array(hashes, pa.string())], names=columns)
