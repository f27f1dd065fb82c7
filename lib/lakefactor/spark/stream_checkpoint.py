"""What a stream's checkpoint says of its progress, in the words of its source.

Spark writes a file per micro-batch into ``offsets`` before it is run (its third line says where the source stands then)
and into ``commits`` afterwards; a landing folder's files are in ``sources/0``.
"""

from __future__ import annotations

import json

from pyspark.sql import SparkSession

from lakefactor.config import Config
from lakefactor.errors import ConfigError
from lakefactor.spark.files import at, names_in


def checkpoint_root(config: Config) -> str:
    """Return the folder or URI that holds checkpoints, and beside them what belongs to all streams of the tables.

    Under ``tables.root``, where VACUUM leaves a folder alone that begins with ``_``; else beside ``stream.checkpoint``.

    Raises
    ------
    ConfigError
        ``tables.catalog`` is used, and ``stream.checkpoint`` is empty.
    """
    if config.tables.root:
        return f"{config.tables.root.rstrip('/')}/_checkpoints"
    if config.stream.checkpoint:
        return config.stream.checkpoint.rstrip("/").rpartition("/")[0]
    raise ConfigError("tables.catalog is no place for a checkpoint; set stream.checkpoint to a folder or URI")


def checkpoint_of(config: Config) -> str:
    """Return the folder or URI of the stream's checkpoint.

    >>> from lakefactor.config import Stream, Tables
    >>> checkpoint_of(Config(tables=Tables(root="lake"), stream=Stream(name="clicks")))
    'lake/_checkpoints/clicks'
    """
    return config.stream.checkpoint.rstrip("/") or f"{checkpoint_root(config)}/{config.stream.name}"


def claim(spark: SparkSession, config: Config) -> None:
    """Note whose the checkpoint is.

    Raises
    ------
    ConfigError
        Another source has it: its progress says nothing about this one.
    """
    stream = config.stream
    mine = f"kafka {stream.kafka_topic}" if stream.source == "kafka" else stream.source
    place = f"{checkpoint_of(config)}/source"
    theirs = _lines(spark, place)
    if not theirs:
        _write(spark, place, mine)
    elif theirs != [mine]:
        raise ConfigError(
            f"the checkpoint {checkpoint_of(config)} is of the source {theirs[0]!r}, not of {mine!r}; "
            "give the stream another stream.name, or correct stream.source or stream.kafka_topic"
        )


def planned_batch(spark: SparkSession, config: Config) -> int | None:
    """Return the number of the newest micro-batch that the checkpoint has planned; None: there is none."""
    return max(map(int, names_in(spark, f"{checkpoint_of(config)}/offsets")), default=None)


def is_unfinished(spark: SparkSession, config: Config) -> bool:
    """Tell whether the newest micro-batch was planned, and not done to its end."""
    planned = planned_batch(spark, config)
    return planned is not None and planned > _done_batch(spark, config)


def next_change(spark: SparkSession, config: Config) -> tuple[int, int] | None:
    """Return where the stream stands in the changes of `events`; None: it reads no changes.

    Returns
    -------
    (int, int) or None
        First version whose commit it looks at again when it goes on, and first whose changes it has not read.
    """
    checkpoint = checkpoint_of(config)
    if _lines(spark, f"{checkpoint}/source") != ["changes"]:
        return None
    done = _done_batch(spark, config)
    first = int((_lines(spark, f"{checkpoint}/first_version") or ["0"])[0])
    if done < 0:
        return first, first
    version, index = _change_offset(spark, config, done)
    # At a start Spark plans the last micro-batch once more, without reading it; a commit is never split.
    return _change_offset(spark, config, done - 1)[0] if done else first, version + (index >= 0)


def _change_offset(spark: SparkSession, config: Config, batch_id: int) -> tuple[int, int]:
    """Return the version of `events` that a micro-batch went up to, and its last file; a negative one: none of it."""
    offset = json.loads(_lines(spark, f"{checkpoint_of(config)}/offsets/{batch_id}")[2])
    return int(offset["reservoirVersion"]), int(offset["index"])


def _done_batch(spark: SparkSession, config: Config) -> int:
    return max(map(int, names_in(spark, f"{checkpoint_of(config)}/commits")), default=-1)


def first_version(spark: SparkSession, config: Config, told: int) -> int | None:
    """Return the version that a change feed starts at; None once the checkpoint says where it goes on.

    Until the first micro-batch is done that is the version told at the first start of all: what is appended after a
    start that found nothing belongs to the stream.
    """
    checkpoint = checkpoint_of(config)
    if names_in(spark, f"{checkpoint}/commits"):
        return None
    place = f"{checkpoint}/first_version"
    if kept := _lines(spark, place):
        return int(kept[0])
    _write(spark, place, str(told))
    return told


def planned_files(spark: SparkSession, config: Config, batch_id: int) -> set[str]:
    """Return the URIs of the files that micro-batch `batch_id` of a landing folder was planned to read."""
    first = _log_offset(spark, config, batch_id - 1) + 1 if batch_id else 0
    planned = set()
    for number in range(first, _log_offset(spark, config, batch_id) + 1):
        log = f"{checkpoint_of(config)}/sources/0/{number}"
        entries = _lines(spark, log) or _lines(spark, f"{log}.compact")  # every tenth holds those before it as well
        files = [json.loads(entry) for entry in entries[1:]]
        planned |= {file["path"] for file in files if file["batchId"] == number}
    return planned


def _log_offset(spark: SparkSession, config: Config, batch_id: int) -> int:
    lines = _lines(spark, f"{checkpoint_of(config)}/offsets/{batch_id}")
    return int(json.loads(lines[2])["logOffset"])


def _lines(spark: SparkSession, path: str) -> list[str]:
    """Return the lines of a file; none where there is no file."""
    files, place = at(spark, path)
    if not files.exists(place):
        return []
    stream = files.open(place)
    try:
        return bytes(stream.readAllBytes()).decode().splitlines()
    finally:
        stream.close()


def _write(spark: SparkSession, path: str, text: str) -> None:
    files, place = at(spark, path)
    stream = files.create(place, True)
    try:
        stream.write(bytearray(text.encode()))
    finally:
        stream.close()
