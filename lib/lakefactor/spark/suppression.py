"""Users whose events are no longer taken in, known by salted hashes alone.

The hashes are a table, the salt is a file beside it, so neither names anybody without the other. Rows are looked at in
Python, where the salt is part of no plan, log or history.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructField, StructType

from lakefactor.config import Config
from lakefactor.errors import ConfigError, SetupError
from lakefactor.factorization.coding import coded
from lakefactor.factorization.snapshot_folder import Folder
from lakefactor.spark.tables import Tables

SUPPRESSED = "user is suppressed"
"""Reason of a refused row that names nobody."""

_SALT = "salt"
_WORD = re.compile(r"[^\s\"'`,;:|{}\[\]()<>=&/\\]+")
_INTEGER = re.compile(r"\s*[+-]?\d{1,19}\s*", re.ASCII)


@dataclass(frozen=True)
class Suppression:
    """Hashes of some users; travels to the executors, which hold all of it (about 150 bytes for each user).

    Attributes
    ----------
    salt : str
    hashes : frozenset of str
        As the table `suppressions` has them.
    """

    salt: str
    hashes: frozenset[str] = frozenset()

    def hash(self, user: str | int) -> str:
        """Return the hash of a user.

        >>> Suppression("salt").hash(7) == Suppression("salt").hash("7")
        True
        """
        return hashlib.sha256(f"{self.salt}:{user}".encode(errors="surrogatepass")).hexdigest()

    def of(self, users: Sequence[str | int]) -> Suppression:
        """Return the hashes of some users, under the same salt."""
        return Suppression(self.salt, frozenset(map(self.hash, users)))

    def keep(self, events: pa.Table) -> pa.Table:
        """Return the rows of other users; `user_id` is never null."""
        if not self.hashes:
            return events
        users, place = coded(events["user_id"])
        named = pa.array([self.hash(user) in self.hashes for user in users.to_pylist()], pa.bool_())
        return events.filter(pc.invert(named.take(pa.array(place)))) if pc.any(named).as_py() else events

    def without(self, rows: DataFrame) -> DataFrame:
        """Return the rows of other users; `user_id` is never null."""
        return rows.mapInArrow(partial(_others, self), rows.schema) if self.hashes else rows

    def refuse(self, checked: DataFrame, delimiter: str) -> DataFrame:
        """Refuse the rows of these users, and strip them of all that could name one.

        Parameters
        ----------
        checked : DataFrame
            As `validation.check_rows` returns them. A row that was refused already may name a user anywhere in its
            content.
        delimiter : str
            Of CSV lines.
        """
        if not self.hashes:
            return checked
        schema = StructType([StructField(field.name, field.dataType) for field in checked.schema])
        return checked.mapInArrow(partial(_refused, self, delimiter), schema)

    def named_in(self, text: str, delimiter: str) -> set[str]:
        """Return the hashes of these users that a text of a source names.

        A user is named by a value of a JSON object, a field of a CSV line, or a word between signs.

        >>> users = Suppression("salt").of(["zoë:1", 7])
        >>> [len(users.named_in(text, ",")) for text in ('{"u": "zoë:1"}', "zoë:1,i,x", "/in/user=7/a.csv", "17,i")]
        [1, 1, 1, 0]
        """
        found = _WORD.findall(text) + [field.strip().strip('"').replace('""', '"') for field in text.split(delimiter)]
        try:
            fields = json.loads(text)
            found += [str(value) for value in fields.values()] if isinstance(fields, dict) else []
        except (ValueError, RecursionError):
            pass
        found += [str(int(word)) for word in found if _INTEGER.fullmatch(word)]
        return {self.hash(word) for word in set(found)} & self.hashes


NOBODY = Suppression("")
"""Suppresses nobody: rows pass as they are."""


def load_suppression(spark: SparkSession, config: Config) -> Suppression:
    """Return the users that are suppressed.

    Raises
    ------
    SetupError
        Users are suppressed, but the salt is not there: nobody could tell who they are.
    """
    tables = Tables(spark, config.tables)
    if not tables.exists("suppressions"):
        return NOBODY
    hashes = tables.rows("suppressions", ["user_hash"])["user_hash"].to_pylist()
    return Suppression(read_salt(config), frozenset(hashes)) if hashes else NOBODY


def read_salt(config: Config) -> str:
    """Return the salt.

    Raises
    ------
    SetupError
        It is not there.
    """
    folder = _folder(config)
    try:
        return folder.read_bytes(_SALT).decode()
    except FileNotFoundError:
        raise SetupError(
            f"the salt of table suppressions is not at {folder.root}/{_SALT}, so the users that were forgotten cannot "
            "be told from others; restore it, or let forget.salt_folder name the folder that has it"
        ) from None


def make_salt(config: Config) -> str:
    """Return the salt; the first time it is drawn."""
    folder = _folder(config)
    if not folder.exists(_SALT):
        folder.write_bytes(_SALT, secrets.token_hex(32).encode())
    return read_salt(config)


def _folder(config: Config) -> Folder:
    if config.forget.salt_folder:
        return Folder(config.forget.salt_folder)
    if config.tables.root:
        return Folder(f"{config.tables.root.rstrip('/')}/_suppressions")
    raise ConfigError("tables.catalog is no place for the salt of suppressions; set forget.salt_folder")


def _others(suppression: Suppression, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield from suppression.keep(pa.Table.from_batches([batch])).to_batches()


def _refused(suppression: Suppression, delimiter: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Replace rows that name one of the users by rows that name nobody."""
    known: dict[str | int, bool] = {}
    for batch in batches:
        users, contents = batch["user_id"].to_pylist(), batch["content"].to_pylist()
        for user in {user for user in users if user is not None} - known.keys():
            known[user] = suppression.hash(user) in suppression.hashes
        rows = [
            known.get(user, False) or (content is not None and bool(suppression.named_in(content, delimiter)))
            for user, content in zip(users, contents, strict=True)
        ]
        if any(rows):
            batch = _blanked(batch, pa.array(rows))
        yield batch


def _blanked(batch: pa.RecordBatch, rows: pa.BooleanArray) -> pa.RecordBatch:
    blank = {"event_type": "", "value": 0.0, "reason": SUPPRESSED, "content": ""}
    columns = [
        column
        if name in ("source_hash", "position")
        else pc.if_else(rows, pa.scalar(blank.get(name), column.type), column)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
