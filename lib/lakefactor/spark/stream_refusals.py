"""Why a stream's query ended, in lakefactor's words, and what to do; in every case nothing is lost.

Spark and Delta name their errors by conditions in brackets, as ``[DELTA_VERSION_NOT_FOUND]``, however deep they were.
"""

from __future__ import annotations

import re

from lakefactor.config import Config
from lakefactor.errors import InputError, LakefactorError, TableError
from lakefactor.spark.stream_checkpoint import checkpoint_of

BEGIN_AGAIN = (
    "train and publish a model of the table as it is now, then start the stream under another stream.name, "
    "which begins after that model"
)

_HISTORY_GONE = (
    "DELTA_LOG_FILE_NOT_FOUND",
    "DELTA_VERSION_NOT_FOUND",
    "DELTA_MISSING_FILES_UNEXPECTED_VERSION",
    "DELTA_CHANGE_DATA_FILE_NOT_FOUND",
    "DELTA_FILE_NOT_FOUND",
    "DELTA_CANNOT_RECONSTRUCT_PATH_FROM_URI",
    "DELTA_TRUNCATED_TRANSACTION_LOG",
    "FAILED_READ_FILE.FILE_NOT_EXIST",
)
_COLUMNS_CHANGED = (
    "DELTA_SCHEMA_CHANGED",
    "DELTA_STREAMING_INCOMPATIBLE_SCHEMA_CHANGE",
    "DELTA_STREAMING_CANNOT_CONTINUE_PROCESSING_POST_SCHEMA_EVOLUTION",
    "DELTA_CHANGE_DATA_FEED_INCOMPATIBLE",
)


def explained(error: BaseException, config: Config) -> LakefactorError | None:
    """Say why a query ended.

    Parameters
    ----------
    error : BaseException
        As ``StreamingQuery.awaitTermination`` or an action on a micro-batch raised it.
    config : Config

    Returns
    -------
    LakefactorError or None
        To be raised instead; None: the error is none of a stream's known refusals.

    Examples
    --------
    >>> print(explained(RuntimeError("[STREAM_FAILED] ... [CONCURRENT_STREAM_LOG_UPDATE] ..."), Config()))
    another stream writes to the checkpoint warehouse/_checkpoints/default; stop it, or give this one another ...
    """
    if isinstance(error, LakefactorError):
        return error
    text = str(error)
    found = re.findall(r"\[([A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)*)\]", text)
    if any(name.startswith(("CONCURRENT_STREAM_LOG_UPDATE", "DELTA_CONCURRENT_TRANSACTION")) for name in found):
        return InputError(
            f"another stream writes to the checkpoint {checkpoint_of(config)}; stop it, or give this one another "
            "stream.name"
        )
    if config.stream.source == "kafka":
        return _kafka(text, config)
    for name in found:
        reason = _reason(name, config)
        if reason is not None:
            return reason
    return None


def _kafka(text: str, config: Config) -> LakefactorError | None:
    """Return what an error of Kafka's client, or of Spark's connector, means."""
    stream = config.stream
    if "UnknownTopicOrPartitionException" in text:
        return InputError(
            f"there is no topic {stream.kafka_topic} at {stream.kafka_servers}; create it, or correct "
            "stream.kafka_topic"
        )
    if "KAFKA_DATA_LOSS" in text or "OffsetOutOfRangeException" in text:
        return InputError(
            f"topic {stream.kafka_topic} no longer holds messages that the stream has to read next: they were deleted, "
            "or the topic was created again; ingest them from where they still are, then start the stream under "
            "another stream.name, which reads the topic from its beginning, and keep messages longer (retention.ms)"
        )
    if "kafka.common.errors.TimeoutException" in text or "No resolvable bootstrap urls" in text:
        return InputError(
            f"Kafka does not answer at {stream.kafka_servers}; start it, or correct stream.kafka_servers or "
            "stream.kafka_options; the stream goes on where it stopped"
        )
    return None


def _reason(name: str, config: Config) -> LakefactorError | None:
    """Return what a condition means for the source of the stream."""
    if config.stream.source == "files" and name in ("FAILED_READ_FILE.FILE_NOT_EXIST", "PATH_NOT_FOUND"):
        return InputError(
            f"a file of the landing folder {config.stream.path} has gone before it was read ({name}); put it back, "
            "and start the stream again"
        )
    if config.stream.source != "changes":
        return None
    if name.startswith(_HISTORY_GONE):
        return TableError(
            f"table events no longer holds the changes that the stream has to read next ({name}): VACUUM or the "
            f"clean-up of its log was faster than the stream; {BEGIN_AGAIN}, and keep the history longer "
            "(delta.logRetentionDuration, delta.deletedFileRetentionDuration)"
        )
    if name.startswith(_COLUMNS_CHANGED):
        return TableError(
            f"the columns of table events were changed ({name}); restore the version before (RESTORE TABLE), or "
            f"migrate the table; then {BEGIN_AGAIN}"
        )
    if name.startswith("DELTA_MISSING_CHANGE_DATA"):
        return TableError(
            "the change feed of table events was off for changes that the stream has to read next; set its property "
            f"delta.enableChangeDataFeed to true; then {BEGIN_AGAIN}"
        )
    if name.startswith("DIFFERENT_DELTA_TABLE_READ_BY_STREAMING_SOURCE"):
        return TableError(
            f"table events is not the one that the stream read before: it was dropped and created again; {BEGIN_AGAIN}"
        )
    return None
