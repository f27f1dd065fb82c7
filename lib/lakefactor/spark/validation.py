"""What makes a raw row an event: ids, type, value and time that can be believed, or the reason why not.

One projection of SQL expressions, no Python per row. The first failing check gives the reason; reasons are fixed
sentences, so they can be counted.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, NumericType, StringType

from lakefactor.config import Ingest
from lakefactor.contracts import IdType
from lakefactor.spark.sources import LINE, POSITION, SOURCE, TEXT, RawRows
from lakefactor.types import Side

EPOCH_MILLIS_FROM = 100_000_000_000
"""Epoch numbers from here on are milliseconds (1973 and later), smaller ones seconds (up to the year 5138)."""

_EPOCH_END = 100_000_000_000_000  # year 5138 in milliseconds
_BROKEN_TEXT = "\ufffd"  # what Spark puts where bytes are not UTF-8; different ids would become one
_USER_TEXT, _ITEM_TEXT = "_lakefactor_user_text", "_lakefactor_item_text"
_VALUE_TEXT, _TIME_TEXT = "_lakefactor_value_text", "_lakefactor_time_text"
_USER, _ITEM, _TYPE, _VALUE, _TIME = (f"_lakefactor_{role}" for role in ("user", "item", "type", "value", "time"))
_REASON = "_lakefactor_reason"


def check_rows(raw: RawRows, ingest: Ingest, id_types: tuple[IdType, IdType], now: datetime) -> DataFrame:
    """Turn raw rows into events, and name what is wrong with the others.

    Parameters
    ----------
    raw : RawRows
    ingest : Ingest
        Ranges, known event types, the default type.
    id_types : (str, str)
        Types of user and item ids in the table `events`, each "string" or "long".
    now : datetime
        Aware; events may lie ``ingest.max_future_days`` after it.

    Returns
    -------
    DataFrame
        ``user_id, item_id, event_type, value, event_time, source_hash, position, reason, content``. An event has a null
        `reason` and a null `content`; a refused row has both: content is its line where that is malformed or was kept,
        else its columns as JSON.

    Notes
    -----
    Ids are kept byte for byte; an id of blanks alone counts as empty. An empty time means that the time is unknown. An
    empty value means 1 where the source has a column of types (a view has no value), and is refused where it has none.
    Times without a zone are UTC.
    """
    parsed = _parsed(raw, ingest, id_types)
    reason = F.coalesce(
        F.when(F.col(LINE).isNotNull(), "line is malformed"),
        _id_fault("user", F.col(_USER_TEXT), F.col(_USER), ingest),
        _id_fault("item", F.col(_ITEM_TEXT), F.col(_ITEM), ingest),
        F.when(~F.col(_TYPE).isin([*ingest.event_weights, ingest.delete_event_type]), "event type is unknown"),
        _value_fault(F.col(_VALUE_TEXT), F.col(_VALUE), ingest, raw.value_may_be_empty),
        _time_fault(F.col(_TIME_TEXT), F.col(_TIME), now + timedelta(days=ingest.max_future_days)),
    )
    judged = parsed.withColumn(_REASON, reason)
    as_found = F.col(TEXT) if TEXT in raw.frame.columns else F.to_json(F.struct(*map(_named, raw.columns)))
    position = F.col(POSITION) if POSITION in raw.frame.columns else F.lit(None).cast("bigint")
    return judged.select(
        F.col(_USER).alias("user_id"),
        F.col(_ITEM).alias("item_id"),
        F.col(_TYPE).alias("event_type"),
        F.coalesce(F.col(_VALUE), F.lit(1.0)).alias("value"),
        F.col(_TIME).alias("event_time"),
        F.col(SOURCE).alias("source_hash"),
        position.alias("position"),
        F.col(_REASON).alias("reason"),
        F.when(F.col(_REASON).isNotNull(), F.coalesce(F.col(LINE), as_found)).alias("content"),
    )


def _parsed(raw: RawRows, ingest: Ingest, id_types: tuple[IdType, IdType]) -> DataFrame:
    """Add every field as text (null where empty) and as what it should be (null where it is not that).

    A projection of its own, so that each field is parsed once and looked at by several checks.
    """
    roles, kinds = raw.roles, raw.frame.schema
    user, item = _named(roles.user), _named(roles.item)
    columns = {
        _USER_TEXT: user.cast("string"),
        _ITEM_TEXT: item.cast("string"),
        _USER: _id(user, id_types[0]),
        _ITEM: _id(item, id_types[1]),
        _TYPE: F.lit(ingest.default_event_type),
        _VALUE_TEXT: F.lit("1"),
        _VALUE: F.lit(1.0),
        _TIME_TEXT: F.lit(None).cast("string"),
        _TIME: F.lit(None).cast("timestamp"),
    }
    if roles.type is not None:
        columns[_TYPE] = F.coalesce(_text(roles.type), F.lit(ingest.default_event_type))
    if roles.value is not None:
        columns[_VALUE_TEXT] = _text(roles.value)
        columns[_VALUE] = _number(_named(roles.value), kinds[roles.value].dataType)
    if roles.time is not None:
        columns[_TIME_TEXT] = _text(roles.time)
        columns[_TIME] = _timestamp(_named(roles.time), kinds[roles.time].dataType)
    return raw.frame.select("*", *(column.alias(name) for name, column in columns.items()))


def _text(name: str) -> Column:
    return F.nullif(_named(name).cast("string"), F.lit(""))


def _id(column: Column, id_type: IdType) -> Column:
    return column.try_cast("bigint") if id_type == "long" else column.cast("string")


def _id_fault(side: Side, text: Column, parsed: Column, ingest: Ingest) -> Column:
    return (
        F.when(F.trim(F.coalesce(text, F.lit(""))) == "", f"{side} id is empty")
        .when(F.length(text) > ingest.max_id_length, f"{side} id is too long")
        .when(F.contains(text, F.lit(_BROKEN_TEXT)), f"{side} id is not UTF-8 text")
        .when(parsed.isNull(), f"{side} id is not a 64-bit integer")
    )


def _number(column: Column, kind: DataType) -> Column:
    number = column.try_cast("double")
    if not isinstance(kind, StringType):
        return number
    last = F.lower(F.substring(F.trim(column), -1, 1))
    return F.when(~last.isin("d", "f"), number)  # Spark reads 5d and 5f as Java does: as 5


def _value_fault(text: Column, number: Column, ingest: Ingest, may_be_empty: bool) -> Column:
    return (
        F.when(text.isNull(), F.lit(None) if may_be_empty else F.lit("value is empty"))
        .when(number.isNull(), "value is not a number")
        .when(number.isNaN() | (F.abs(number) == float("inf")), "value is not finite")
        .when(~number.between(ingest.min_value, ingest.max_value), "value is out of range")
    )


def _timestamp(column: Column, kind: DataType) -> Column:
    if isinstance(kind, StringType):  # numbers come first: they need no pattern
        packed = F.when(F.length(column) == 8, _packed_date(column))
        return F.coalesce(packed, _epoch(column), _calendar(column))
    return _epoch(column) if isinstance(kind, NumericType) else column.cast("timestamp")


def _time_fault(text: Column, time: Column, latest: datetime) -> Column:
    return (
        F.when(text.isNull(), F.lit(None))
        .when(time.isNull(), "event time cannot be read")
        .when(time < F.timestamp_seconds(F.lit(0)), "event time is before 1970")
        .when(time > F.lit(latest), "event time is in the future")
    )


def _epoch(column: Column) -> Column:
    """Read epoch seconds or milliseconds, with a fraction down to the microsecond."""
    whole, number = column.try_cast("bigint"), column.try_cast("decimal(26,6)")
    return F.coalesce(
        F.when(F.abs(whole) < EPOCH_MILLIS_FROM, F.timestamp_seconds(whole)),
        F.when(F.abs(whole) < _EPOCH_END, F.timestamp_millis(whole)),
        F.when(F.abs(number) < EPOCH_MILLIS_FROM, F.timestamp_seconds(number)),
        F.when(F.abs(number) < _EPOCH_END, F.timestamp_seconds(number / 1000)),
    )


def _calendar(text: Column) -> Column:
    """Read ISO 8601: a date, alone or with a time and a zone.

    Spark alone would also take `12:30` for today and `2024` for a date.
    """
    return F.when(text.rlike(r"^\s*\d{4}-\d{1,2}-\d{1,2}"), text.try_cast("timestamp"))


def _packed_date(text: Column) -> Column:
    """Read a date as 20240131; null for other texts of eight characters."""
    return F.regexp_replace(text, r"^(\d{4})(\d{2})(\d{2})$", "$1-$2-$3").try_cast("timestamp")


def _named(name: str) -> Column:
    return F.col(f"`{name.replace('`', '``')}`")
