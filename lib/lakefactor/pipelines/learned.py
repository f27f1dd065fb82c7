"""What a model version has learned: the events behind its training, then those of catch-ups and micro-batches.

Events are told apart by the version of ``events`` that brought them. A model version that was not live for a while,
since it is new or was replaced, has missed what arrived meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

from lakefactor.errors import TableError
from lakefactor.factorization.live_model import STREAMED
from lakefactor.factorization.strengths import Span
from lakefactor.pipelines.models import ModelRecord
from lakefactor.query.live_factors import UPDATES
from lakefactor.spark.commits import newest_metadata, version_with
from lakefactor.spark.tables import Tables

CATCH_UP = "catchup"
"""In the metadata of a commit of ``factor_updates``: the version that caught up, beside the version of `events`."""

NEVER = 2**63 - 1
"""Number of a micro-batch that all others come before."""


@dataclass(frozen=True)
class Source:
    """The events behind a training: what they have in common, and the version of `events`."""

    span: Span
    events_version: int


def is_streamed(record: ModelRecord) -> bool:
    """Tell whether rows of a version can be solved alone: its algorithm says how, and its events are known."""
    return record.config.model.algorithm in STREAMED and record.made_from is not None


def source_of(record: ModelRecord) -> Source:
    """Return the events behind a training.

    Raises
    ------
    TableError
        Nothing tells which they were.
    """
    made = record.made_from
    if made is None:
        raise TableError(
            f"version {record.interactions_version} of table interactions, which model version {record.model_version} "
            "was trained on, does not say what events it was made from; "
            "run 'lakefactor interactions', train and publish"
        )
    return Source(Span.recorded(made["span"]), made["events_version"])


def learned_to(tables: Tables, model_version: str, trained_on: int, number: int) -> int:
    """Return the version of `events` up to which a model version had learned before a micro-batch.

    Parameters
    ----------
    tables : Tables
    model_version : str
    trained_on : int
        Version of `events` behind its training.
    number : int
        The micro-batch; it and later ones are not looked at.
    """
    if (last := _last_batch(tables, model_version, number)) is not None:
        version, (stream, batch_id) = last
        # The events that it read; those of a file or a message were appended by itself, next, if nobody came between.
        own = version_with(tables, "events", batch_metadata(stream, batch_id), after=version)
        return version + 1 if own == version + 1 else version
    if tables.exists(UPDATES) and tables.rows(UPDATES, ("batch_id",), {"model_version": model_version}).num_rows:
        return caught_up_to(tables, model_version) or trained_on
    return trained_on


def was_live(tables: Tables, model_version: str) -> bool:
    """Tell whether a micro-batch has updated a version."""
    where = {"model_version": model_version}
    return tables.exists("stream_ledger") and tables.rows("stream_ledger", ("batch_id",), where).num_rows > 0


def caught_up_to(tables: Tables, model_version: str) -> int | None:
    """Return the version of `events` of a version's newest catch-up; None: there was none."""
    found = newest_metadata(tables, UPDATES, CATCH_UP, model_version)
    return int(found["events_version"]) if found else None


def batch_metadata(stream: str, batch_id: int) -> dict[str, str | int]:
    """Return what the commit of `events` by a micro-batch says of it."""
    return {"stream": stream, "batch_id": batch_id}


def _last_batch(tables: Tables, model_version: str, number: int) -> tuple[int, tuple[str, int]] | None:
    """Return the version of `events` that a version's last micro-batch before `number` read, and its name."""
    if not tables.exists("stream_ledger"):
        return None
    columns = ("stream", "batch_id", "input_versions")
    rows = tables.rows("stream_ledger", columns, {"model_version": model_version}).to_pylist(maps_as_pydicts="strict")
    last = max((row for row in rows if row["batch_id"] < number), key=lambda row: row["batch_id"], default=None)
    return (last["input_versions"]["events"], (last["stream"], last["batch_id"])) if last else None
